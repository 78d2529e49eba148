"""A teacher of your own, named by an import string.

This one never looks at a true reward: it likes the point on the right, wherever the goal may be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf_gym import Choice, Clip, Preference, Query
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.train_config import TrainConfig
from rlhf_gym.training import train


def rightness(clip: Clip) -> float:
    """Mean horizontal position of the point over the clip, in [-1, 1]."""
    return float(clip.obs[:, 0].mean())  # raw observations; clip.actions were executed as they are


class Rightwards:
    """Prefers the clip that is further to the right; TIE where there is next to no difference."""

    name = "rightwards"

    def answer(self, queries: Sequence[Query]) -> list[Preference]:
        """One preference per query; must depend on the queries alone, so that replays agree."""
        return [Preference(query, self._choose(query), teacher=self.name) for query in queries]

    def _choose(self, query: Query) -> Choice:
        difference = rightness(query.first) - rightness(query.second)
        if abs(difference) < 0.02:
            return Choice.TIE  # trained on as 0.5; Choice.SKIP would be kept but not trained on
        return Choice.FIRST if difference > 0 else Choice.SECOND


def main(steps: int = 24_000, seed: int = 0) -> list[float]:
    """Mean position of the clips that each round asked about; round 0 is the random warm-up."""
    config = TrainConfig(
        env="rlhf_gym/PointMass-v0",
        teacher="own_teacher:Rightwards",
        labels=100,
        steps=steps,
        rounds=6,
        clip_length=10,
        seed=seed,
    )
    run = train(config, quiet=True)
    positions: dict[int, list[float]] = {}
    with PreferenceStore(run.store_folder) as store:  # every answer and every clip is kept
        for preference in store.preferences():
            here = positions.setdefault(preference.query.round, [])
            here += [rightness(clip) for clip in preference.query.clips]
    return [float(np.mean(positions[round_])) for round_ in sorted(positions)]


if __name__ == "__main__":
    per_round = main()
    print("mean position by round:", " ".join(f"{value:+.2f}" for value in per_round))
