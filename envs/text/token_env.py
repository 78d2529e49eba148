"""Text token by token: a Gymnasium env for agents that know nothing of language models."""

from __future__ import annotations

from typing import Any, Literal, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from rlhf_gym.envs.text.task import TextTask
from rlhf_gym.errors import ConfigError, DataError

__all__ = ["Observation", "TokenEnv", "check_view_settings", "ending", "token_space"]

Observation = dict[str, npt.NDArray[Any]]


class TokenEnv(gym.Env[Observation, np.int64]):
    """A text task seen token by token.

    ## Description
    An episode is one completion of one prompt; an action is its next token. The prompt stands in
    the first P places, padded on the left, and the completion's token t at place P + t: nothing
    moves while it grows, and only its end is decoded.

    ## Action Space
    `Discrete(V)`, a token id. `action_masks()` says which may be sampled (MaskablePPO asks it).
    The others are legal and add no text; an agent without masks should never be able to pick them.

    ## Observation Space
    `Dict`: `input_ids` `Box(0, V - 1, (P + T,), int32)` and `attention_mask`
    `MultiBinary(P + T)`, 1 where a token is real. Elsewhere stands PAD.

    ## Rewards
    0 until the completion ends, then the task's total. `info` then holds `completion`,
    `finish_reason` ("eos" or "length"), `n_tokens` and `reward_components`.

    ## Starting State
    A prompt drawn uniformly by `np_random`, or `reset(options={"prompt_index": i})`; `info` holds
    `prompt` and `prompt_index`.

    ## Episode End
    Terminated after EOS. The T-th token ends the episode too: as a termination by default, so that
    the return of a cut completion is its reward and no value is bootstrapped, as in sequence-level
    training; with `length_is="truncation"` as a truncation.

    ## Arguments
    - `task`: the `TextTask`.
    - `render_mode`: None or "ansi" (the text so far).
    - `length_is`: "terminal" or "truncation".

    Raises:
        ConfigError: `render_mode` or `length_is` is none of these.
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
        length = task.max_prompt_tokens + task.max_new_tokens
        self.observation_space = token_space(task.vocab_size, length)
        self.action_space = spaces.Discrete(task.vocab_size)
        self._ids = np.full(length, task.pad_id, np.int32)
        self._mask = np.zeros(length, np.int8)
        self._prompt_index = 0
        self._n_tokens = 0
        self._ended = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a completion of a drawn prompt, or of the one that `options` names.

        Raises:
            DataError: there is no such prompt.
        """
        super().reset(seed=seed)
        task, wanted = self.task, (options or {}).get("prompt_index")
        drawn = int(self.np_random.integers(len(task))) if wanted is None else wanted
        self._prompt_index = task.checked_index(drawn)
        n_prompt = task.max_prompt_tokens
        self._ids[:n_prompt] = task.prompt_ids[self._prompt_index]
        self._ids[n_prompt:] = task.pad_id
        self._mask[:n_prompt] = task.prompt_mask[self._prompt_index]
        self._mask[n_prompt:] = 0
        self._n_tokens, self._ended = 0, False
        return self._observe(), self._about_prompt()

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Append one token.

        Raises:
            DataError: the id is outside the vocabulary, or the episode has ended.
        """
        task, token = self.task, int(action)
        if self._ended:
            raise DataError("the completion has ended; call `reset()` before the next `step()`.")
        if not 0 <= token < task.vocab_size:
            raise DataError(
                f"the action is {token}, expected a token id from 0 to {task.vocab_size - 1}."
            )
        place = task.max_prompt_tokens + self._n_tokens
        self._ids[place] = token
        self._mask[place] = 1
        self._n_tokens += 1
        self._ended = token in task.eos_ids or self._n_tokens == task.max_new_tokens
        info = self._about_prompt()
        if not self._ended:
            return self._observe(), 0.0, False, False, info
        completion = self._ids[None, task.max_prompt_tokens :]  # (1, T)
        mask = self._mask[None, task.max_prompt_tokens :] == 1
        scores = task.score([self._prompt_index], completion, mask)
        info["completion"] = scores.texts[0]
        info["finish_reason"] = scores.finish_reasons[0]
        info["n_tokens"] = self._n_tokens
        info["reward_components"] = {k: float(v[0]) for k, v in scores.components.items()}
        terminated, truncated = ending(scores.finish_reasons[0], self.length_is)
        return self._observe(), float(scores.total[0]), terminated, truncated, info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """(V,) bool, True for the ids that may be sampled; the name is sb3-contrib's."""
        return ~self.task.forbidden

    def render(self) -> str | None:
        """The text so far for "ansi", prompt and completion; None without a render mode."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render_mode: make the env with render_mode='ansi'.")
            return None
        start = self.task.max_prompt_tokens
        so_far = self._ids[start : start + self._n_tokens]
        return self.task.whole_text(self._prompt_index, so_far)

    def _observe(self) -> Observation:
        # Copies: agents keep what they are given.
        return {"input_ids": self._ids.copy(), "attention_mask": self._mask.copy()}

    def _about_prompt(self) -> dict[str, Any]:
        index = self._prompt_index
        return {"prompt": self.task.prompts[index], "prompt_index": index}


def token_space(vocab_size: int, length: int) -> spaces.Space[Observation]:
    """The observation space of `length` tokens and their mask.

    Ids are a Box of int32 and not a MultiDiscrete, which Stable-Baselines3 would turn into V
    numbers per token. It hands them on as float32, exact up to 2**24.
    """
    space = spaces.Dict(
        {
            "input_ids": spaces.Box(0, vocab_size - 1, (length,), np.int32),
            "attention_mask": spaces.MultiBinary(length),
        }
    )
    # Gymnasium types a Dict by its spaces; its samples are dicts of arrays.
    return cast("spaces.Space[Observation]", space)


def ending(finish_reason: str, length_is: str) -> tuple[bool, bool]:
    """(terminated, truncated) of a completion that ended."""
    truncated = finish_reason == "length" and length_is == "truncation"
    return not truncated, truncated


def check_view_settings(render_mode: str | None, length_is: str) -> None:
    """Refuse what neither view knows.

    Raises:
        ConfigError: see above.
    """
    if render_mode not in (None, "ansi"):
        raise ConfigError(f"`render_mode` is {render_mode!r}, expected None or 'ansi'.")
    if length_is not in ("terminal", "truncation"):
        raise ConfigError(f"`length_is` is {length_is!r}, expected 'terminal' or 'truncation'.")
