"""Text completion by completion: one action is a whole continuation."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from rlhf_gym.data import Array
from rlhf_gym.envs.text.task import TextTask, completion_mask
from rlhf_gym.envs.text.token_env import Observation, check_view_settings, ending, token_space
from rlhf_gym.errors import DataError

__all__ = ["CompletionEnv", "checked_completions"]

Ids = npt.NDArray[np.int32]


class CompletionEnv(gym.Env[Observation, Ids]):
    """A text task in which one step is one completion.

    ## Description
    The agent sees a prompt and answers with all its tokens at once; every episode has one step.
    For many prompts at a time, and one call of the reward for all, take `CompletionVectorEnv`.

    ## Action Space
    `Box(0, V - 1, (T,), int32)`: token ids. The completion ends at the first EOS; what stands
    behind it is ignored (PAD, by custom).

    ## Observation Space
    `Dict`: `input_ids` `Box(0, V - 1, (P,), int32)`, the prompt padded on the left, and
    `attention_mask` `MultiBinary(P)`. The last observation is the prompt again.

    ## Rewards
    The task's total, and in `info` what `TokenEnv` says at the end of a completion: the same
    number, text and reason, bit for bit.

    ## Starting State
    As `TokenEnv`.

    ## Episode End
    Always after one step. With `length_is="truncation"` a completion without EOS is truncated
    instead of terminated.

    ## Arguments
    As `TokenEnv`; "ansi" shows the prompt and, after the step, the completion.

    Raises:
        ConfigError: `render_mode` or `length_is` is unknown.
    """

    # Gymnasium declares this as an instance variable, so ClassVar would not fit.
    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        task: TextTask,
        render_mode: str | None = None,
        length_is: Literal["terminal", "truncation"] = "terminal",
    ) -> None:
        check_view_settings(render_mode, length_is)
        self.task = task
        self.render_mode = render_mode
        self.length_is = length_is
        self.observation_space = token_space(task.vocab_size, task.max_prompt_tokens)
        self.action_space = spaces.Box(0, task.vocab_size - 1, (task.max_new_tokens,), np.int32)
        self._prompt_index = 0
        self._completion: list[int] = []
        self._ended = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw a prompt, or take the one that `options["prompt_index"]` names.

        Raises:
            DataError: there is no such prompt.
        """
        super().reset(seed=seed)
        wanted = (options or {}).get("prompt_index")
        drawn = int(self.np_random.integers(len(self.task))) if wanted is None else wanted
        self._prompt_index = self.task.checked_index(drawn)
        self._completion, self._ended = [], False
        return self._observe(), self._about_prompt()

    def step(self, action: Ids) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Score one completion, (T,) ids.

        Raises:
            DataError: another shape, an id outside the vocabulary, or a step after the end.
        """
        if self._ended:
            raise DataError("the completion has ended; call `reset()` before the next `step()`.")
        ids = checked_completions(self.task, np.asarray(action)[None], 1)
        mask = completion_mask(ids, self.task.eos_ids)
        scores = self.task.score([self._prompt_index], ids, mask)
        self._completion, self._ended = ids[mask].tolist(), True
        info = self._about_prompt()
        info["completion"] = scores.texts[0]
        info["finish_reason"] = scores.finish_reasons[0]
        info["n_tokens"] = int(mask.sum())
        info["reward_components"] = {k: float(v[0]) for k, v in scores.components.items()}
        terminated, truncated = ending(scores.finish_reasons[0], self.length_is)
        return self._observe(), float(scores.total[0]), terminated, truncated, info

    def render(self) -> str | None:
        """Prompt and, once given, completion for "ansi"; None without a render mode."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render_mode: make the env with render_mode='ansi'.")
            return None
        return self.task.whole_text(self._prompt_index, self._completion)

    def _observe(self) -> Observation:
        index = self._prompt_index
        return {
            "input_ids": self.task.prompt_ids[index].copy(),
            "attention_mask": self.task.prompt_mask[index].astype(np.int8),
        }

    def _about_prompt(self) -> dict[str, Any]:
        index = self._prompt_index
        return {"prompt": self.task.prompts[index], "prompt_index": index}


def checked_completions(task: TextTask, ids: Array, n_rows: int) -> Array:
    """The ids, if they are `n_rows` completions of T integers each.

    Raises:
        DataError: they are not; the range of the ids is left to `TextTask.score`.
    """
    if ids.shape != (n_rows, task.max_new_tokens) or ids.dtype.kind not in "iu":
        raise DataError(
            f"the action has shape {ids.shape[1:] if n_rows == 1 else ids.shape} and dtype "
            f"{ids.dtype}, expected {task.max_new_tokens} integer token ids per completion; pad "
            f"shorter ones with {task.pad_id}."
        )
    return ids
