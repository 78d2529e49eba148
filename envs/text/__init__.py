"""Text generation as environments: one `TextTask`, seen token by token or completion by completion.

`TextTask` (`rlhf_gym.envs.text.task`) knows prompts, rewards and when a text ends, and nothing of
reinforcement learning. `TokenEnv` and `CompletionEnv` with its `CompletionVectorEnv` are views of
it that pay the same rewards, bit for bit.
"""
