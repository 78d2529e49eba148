"""The same robot written down otherwise: its unit of action and dtype of observation are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlhf_gym.data import Array

ENV = "Lever-v0"
HORIZON = 20


class Lever(gym.Env[Any, Array]):
    """Two levers to be brought to the middle; `as_float` is the observation before its dtype.

    Args:
        low: Action that pushes each lever down.
        high: Action that pushes it up.
        dtype: Of the observations, which are whole numbers; or "Discrete", "MultiBinary", "Dict".
    """

    def __init__(
        self,
        low: Sequence[float] = (-1.0, -1.0),
        high: Sequence[float] = (1.0, 1.0),
        dtype: str = "float32",
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = render_mode
        self.action_space = spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
        self.kind = dtype
        self.observation_space: spaces.Space[Any]
        if dtype == "Discrete":
            self.observation_space = spaces.Discrete(11)
        elif dtype == "MultiBinary":
            self.observation_space = spaces.MultiBinary(2)
        elif dtype == "Dict":
            part = spaces.Box(0, 100, (1,), np.int16)
            self.observation_space = spaces.Dict({"left": part, "right": part})
        else:
            top = 1 if dtype == "bool" else 100
            self.observation_space = spaces.Box(0, top, (2,), np.dtype(dtype))  # type: ignore[arg-type]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-5.0, 5.0, 2)
        return self.observe(), {}

    def observe(self) -> Any:
        whole = np.rint(10 * self.x) + 50  # 0 to 100
        if self.kind == "Discrete":
            return int(whole[0] // 10)
        if self.kind == "MultiBinary":
            return (self.x > 0).astype(np.int8)
        if self.kind == "Dict":
            left, right = whole.astype(np.int16)
            return {"left": np.array([left]), "right": np.array([right])}
        return (self.x > 0) if self.kind == "bool" else whole.astype(self.kind)

    def step(self, action: Array) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), (action, self.action_space)
        low, high = self.action_space.low.astype(float), self.action_space.high.astype(float)
        width = np.where(high > low, high - low, 1.0)
        push = (2 * action - low - high) / width  # -1 to 1, whatever the unit; 0 where it is locked
        self.x = np.clip(0.9 * self.x + push, -5.0, 5.0)
        return self.observe(), -float(np.abs(self.x).sum()), False, False, {"push": push}


if ENV not in gym.registry:
    gym.register(ENV, entry_point="tests.agents.lever:Lever", max_episode_steps=HORIZON)
