"""A vectorised env in this process, for learners that step a cheap simulator many times."""

from __future__ import annotations

import copy

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

__all__ = ["SerialVecEnv"]


class SerialVecEnv(DummyVecEnv):
    """SB3's DummyVecEnv without its deep copies; drop it in wherever that one stands.

    DummyVecEnv copies every info, with all arrays in it, at every step. Here each env's info is
    copied one level deep: an env may hand out the same dict again, as Gymnasium allows, but must
    not write into an array that it has already handed out in an info. Observations are copied, an
    episode's last one included, which DummyVecEnv passes on as it is.
    """

    def step_wait(self) -> VecEnvStepReturn:
        """Step all envs in turn, and reset those whose episode ended."""
        infos = []
        for i, (env, action) in enumerate(zip(self.envs, self.actions, strict=True)):
            obs, self.buf_rews[i], terminated, truncated, info = env.step(action)
            info = {**info, "TimeLimit.truncated": truncated and not terminated}
            self.buf_dones[i] = terminated or truncated
            if terminated or truncated:
                # The reset may write into the very array that the last step returned.
                info["terminal_observation"] = copy.deepcopy(obs)
                obs, self.reset_infos[i] = env.reset()
            self._save_obs(i, obs)
            infos.append(info)
        return self._obs_from_buf(), np.copy(self.buf_rews), np.copy(self.buf_dones), infos
