"""Open formats: a store's content as JSON lines, Parquet, text pairs or Minari episodes, and back.

`rlhf_gym.transfer` picks among them by name.
"""
