"""Many completions at once: a Gymnasium vector env that calls each reward function once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rlhf_gym.data import Array
from rlhf_gym.envs.text.completion_env import Ids, checked_completions
from rlhf_gym.envs.text.task import TaskScores, TextTask, completion_mask
from rlhf_gym.envs.text.token_env import Observation, check_view_settings, token_space
from rlhf_gym.errors import ConfigError, DataError

__all__ = ["CompletionVectorEnv"]

Flags = npt.NDArray[np.bool_]


class CompletionVectorEnv(VectorEnv[Observation, Ids, Array]):
    """B prompts, B completions, one call of each reward function: the fast path for training.

    Every episode has one step, and nothing resets itself (`AutoresetMode.DISABLED`): call `reset`
    before each step. Rewards, endings and `info` are `CompletionEnv`'s, as arrays of B; `scores`
    holds the last step's as the task gave them.

    Args:
        task: The `TextTask`.
        num_envs: B, at least 1.
        render_mode: None or "ansi".
        length_is: "terminal" or "truncation", see `CompletionEnv`.

    Raises:
        ConfigError: a setting that is none of these.
    """

    def __init__(
        self,
        task: TextTask,
        num_envs: int = 1,
        render_mode: str | None = None,
        length_is: Literal["terminal", "truncation"] = "terminal",
    ) -> None:
        check_view_settings(render_mode, length_is)
        if num_envs < 1:
            raise ConfigError(f"`num_envs` is {num_envs}, expected at least 1.")
        self.task = task
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.length_is = length_is
        self.metadata = {
            "render_modes": ["ansi"],
            "render_fps": 10,
            "autoreset_mode": AutoresetMode.DISABLED,
        }
        self.single_observation_space = token_space(task.vocab_size, task.max_prompt_tokens)
        self.single_action_space = spaces.Box(
            0, task.vocab_size - 1, (task.max_new_tokens,), np.int32
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.scores: TaskScores | None = None
        self._indices = np.zeros(num_envs, np.int64)
        self._ended = np.ones(num_envs, np.bool_)
        self._completions: list[list[int]] = [[] for _ in range(num_envs)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw B prompts.

        Args:
            seed: Reseeds the one generator that draws for all.
            options: "prompt_index": B indices instead of drawn ones, or one for all;
                "reset_mask": (B,) bool, the rows to reset; the others keep their prompts.

        Raises:
            DataError: there is no such prompt, or one of the options has another length.
        """
        super().reset(seed=seed)
        given = options or {}
        rows = self._rows_to_reset(given.get("reset_mask"))
        wanted = given.get("prompt_index")
        if wanted is None:
            drawn = self.np_random.integers(len(self.task), size=self.num_envs)
        else:
            drawn = self._checked_indices(wanted)
        self._indices[rows] = drawn[rows]
        self._ended[rows] = False
        for row in np.flatnonzero(rows):
            self._completions[row] = []
        return self._observe(), self._about_prompts()

    def step(self, actions: Ids) -> tuple[Observation, Array, Array, Array, dict[str, Any]]:
        """Score B completions, (B, T) ids, by one call of each reward function.

        Raises:
            DataError: another shape, an id outside the vocabulary, or a row that was not reset.
        """
        if self._ended.any():
            raise DataError(
                f"{int(self._ended.sum())} of {self.num_envs} completions have ended; call "
                "`reset()` before the next `step()`: nothing resets itself here."
            )
        ids = checked_completions(self.task, np.asarray(actions), self.num_envs)
        mask = completion_mask(ids, self.task.eos_ids)
        scores = self.task.score(self._indices, ids, mask)
        self.scores = scores
        self._ended[:] = True
        self._completions = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
        cut = np.array([reason == "length" for reason in scores.finish_reasons])
        truncated = cut if self.length_is == "truncation" else np.zeros_like(cut)
        infos = self._about_prompts()
        infos |= self._with_flags(
            {
                "completion": _texts(scores.texts),
                "finish_reason": _texts(scores.finish_reasons),
                "n_tokens": mask.sum(axis=1),
                "reward_components": self._with_flags(
                    {name: values.copy() for name, values in scores.components.items()}
                ),
            }
        )
        return self._observe(), scores.total.copy(), ~truncated, truncated, infos

    def render(self) -> tuple[str, ...] | None:
        """Prompts with their completions for "ansi"; None without a render mode."""
        if self.render_mode is None:
            return None
        pairs = zip(self._indices, self._completions, strict=True)
        return tuple(self.task.whole_text(int(index), ids) for index, ids in pairs)

    def _rows_to_reset(self, mask: Any) -> Flags:
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        rows = np.asarray(mask)
        if rows.shape != (self.num_envs,) or rows.dtype != np.bool_ or not rows.any():
            raise DataError(
                f"`reset_mask` has shape {rows.shape} and dtype {rows.dtype}, expected "
                f"{self.num_envs} bools of which at least one is True."
            )
        return rows

    def _checked_indices(self, wanted: Any) -> npt.NDArray[np.int64]:
        given = [wanted] * self.num_envs if isinstance(wanted, int | np.integer) else list(wanted)
        if len(given) != self.num_envs:
            raise DataError(
                f"`prompt_index` has {len(given)} entries for {self.num_envs} completions; give "
                "one each, or a single number for all."
            )
        return np.array([self.task.checked_index(index) for index in given], np.int64)

    def _observe(self) -> Observation:
        return {
            "input_ids": self.task.prompt_ids[self._indices],
            "attention_mask": self.task.prompt_mask[self._indices].astype(np.int8),
        }

    def _about_prompts(self) -> dict[str, Any]:
        prompts = [self.task.prompts[index] for index in self._indices]
        return self._with_flags({"prompt": _texts(prompts), "prompt_index": self._indices.copy()})

    def _with_flags(self, values: dict[str, Any]) -> dict[str, Any]:
        """Gymnasium's form: beside each entry, under "_name", which rows have it. Here: all."""
        flags = {f"_{name}": np.ones(self.num_envs, np.bool_) for name in values}
        return values | flags


def _texts(values: Sequence[str]) -> npt.NDArray[np.object_]:
    return np.array(values, dtype=object)
