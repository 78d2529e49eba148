"""The nouns: what an agent did, what was asked about it, and what was answered.

Every type is frozen and checks itself when made; a message names the field, the numbers found and
the remedy. Axis letters: B batch, T steps, E ensemble, D observation, A action.

A *clip* is T consecutive steps of one episode ("segment" in Christiano et al. 2017, "fragment" in
imitation). A *query* asks about clips of one context. A *preference* is an answered query.
"""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rlhf_gym.errors import DataError
from rlhf_gym.pictures import Pictures

__all__ = [
    "Array",
    "Choice",
    "Clip",
    "Preference",
    "Query",
    "RewardBatch",
    "Trajectory",
    "content_id",
]

Array = npt.NDArray[Any]


def _require_length(owner: str, name: str, array: Sized, expected: int, rule: str) -> None:
    if len(array) != expected:
        raise DataError(
            f"`{owner}.{name}` has {len(array)} entries, expected {expected} ({rule}); "
            "cut all arrays of one episode at the same steps."
        )


def _require_finite(owner: str, name: str, array: Array) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0]
        raise DataError(
            f"`{owner}.{name}` must be finite, found {array[tuple(bad)]} at index "
            f"{tuple(int(i) for i in bad)}; check what the environment returns at that step."
        )


def _check_steps(
    owner: str,
    obs: Array,
    actions: Array,
    true_rewards: Array | None,
    sim_states: Array | None,
) -> None:
    n_steps = len(actions)
    if n_steps == 0:
        raise DataError(f"`{owner}.actions` is empty; at least one step is needed.")
    _require_length(owner, "obs", obs, n_steps + 1, "one more than actions")
    _require_finite(owner, "obs", obs)
    _require_finite(owner, "actions", actions)
    if true_rewards is not None:
        if true_rewards.ndim != 1:
            raise DataError(
                f"`{owner}.true_rewards` has shape {true_rewards.shape}, expected ({n_steps},): "
                "one number per step."
            )
        _require_length(owner, "true_rewards", true_rewards, n_steps, "one per action")
        _require_finite(owner, "true_rewards", true_rewards)
    if sim_states is not None:
        _require_length(owner, "sim_states", sim_states, n_steps + 1, "one per observation")


def content_id(context_id: str, obs: Array, actions: Array) -> str:
    """Hex sha256 of context, and of dtype, shape and bytes of observations and actions."""
    digest = hashlib.sha256(context_id.encode())
    for array in (obs, actions):
        digest.update(f"|{array.dtype.str}{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What one episode did, or the part of it that was recorded.

    Raises:
        DataError: lengths disagree, or a number is not finite.
    """

    obs: Array
    """(T + 1, ...) raw observations, the last one after the last action."""
    actions: Array
    """(T, ...) the actions the environment executed (after the box's bounds)."""
    true_rewards: Array | None
    """(T,) float32, the task's reward, or None where nobody knows it."""
    terminated: bool
    """Whether the task itself ended here: nothing follows the last observation."""
    truncated: bool
    """Whether a time limit, or the end of the recording, ended it."""
    context_id: str
    """What its clips may be compared with: the env id; for text, the prompt's hash."""
    sim_states: Array | None = None
    """(T + 1, S) simulator states to render from later, or None."""

    def __post_init__(self) -> None:
        _check_steps("Trajectory", self.obs, self.actions, self.true_rewards, self.sim_states)

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def true_return(self) -> float:
        """Undiscounted sum of the true rewards; NaN where they are unknown."""
        return float("nan") if self.true_rewards is None else float(self.true_rewards.sum())

    def clip(self, start: int, length: int) -> Clip:
        """Copy steps `start .. start + length - 1` into a clip.

        Raises:
            DataError: the window leaves the episode.
        """
        if start < 0 or length < 1 or start + length > len(self):
            raise DataError(
                f"steps {start} to {start + length - 1} do not lie within an episode of "
                f"{len(self)} steps; lower `clip_length` or collect longer episodes."
            )
        end = start + length
        rewards, states = self.true_rewards, self.sim_states
        return Clip(
            obs=self.obs[start : end + 1].copy(),
            actions=self.actions[start:end].copy(),
            context_id=self.context_id,
            true_rewards=None if rewards is None else rewards[start:end].copy(),
            sim_states=None if states is None else states[start : end + 1].copy(),
        )


@dataclass(frozen=True, eq=False)
class Clip:
    """T consecutive steps of one episode, never across an episode's end.

    Two clips are equal when their observations and actions are: `id` is a sha256 of dtype, shape
    and bytes, the same in every process.

    Raises:
        DataError: lengths disagree, or a number is not finite.
    """

    obs: Array
    """(T + 1, ...) raw observations."""
    actions: Array
    """(T, ...) executed actions."""
    context_id: str
    """Clips are compared within one context only: the env id."""
    true_rewards: Array | None = None
    """(T,) for synthetic teachers and for measuring; never shown to a reward model."""
    sim_states: Array | None = None
    """(T + 1, S) simulator states, to render the clip later, or None."""
    pictures: Pictures | None = None
    """T + 1 pictures taken while the env acted, where it has no simulator state, or None."""

    def __post_init__(self) -> None:
        _check_steps("Clip", self.obs, self.actions, self.true_rewards, self.sim_states)
        if self.pictures is not None:
            n_states = len(self.actions) + 1
            _require_length("Clip", "pictures", self.pictures, n_states, "one per observation")

    @classmethod
    def from_storage(cls, clip_id: str, **fields: Any) -> Clip:
        """Rebuild a clip that was checked and hashed when it was stored, without doing so again."""
        clip = object.__new__(cls)
        clip.__dict__.update(true_rewards=None, sim_states=None, pictures=None)
        clip.__dict__.update(fields, id=clip_id)
        return clip

    def without_true_rewards(self) -> Clip:
        """The same clip as a learner, or a person, may see it."""
        fields = {"obs": self.obs, "actions": self.actions, "context_id": self.context_id}
        shown = {"sim_states": self.sim_states, "pictures": self.pictures}
        return Clip.from_storage(self.id, **shown, **fields)

    def __len__(self) -> int:
        return len(self.actions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Clip) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    @cached_property
    def id(self) -> str:
        """Hex sha256 of context, and of dtype, shape and bytes of observations and actions."""
        return content_id(self.context_id, self.obs, self.actions)

    @property
    def true_return(self) -> float:
        """Undiscounted sum of the true rewards; NaN where they are unknown."""
        return float("nan") if self.true_rewards is None else float(self.true_rewards.sum())


@dataclass(frozen=True, eq=False)
class Query:
    """Clips of one context, put to a teacher: which is better?

    `first` and `second` are an order of storage; left and right belong to the viewer.

    Raises:
        DataError: fewer than two clips, clips of several contexts, or the same clip twice.
    """

    clips: tuple[Clip, ...]
    """Two clips, or k for a ranking."""
    seed: int
    """The run's root seed."""
    round: int
    """The round that asks, from 0."""
    index: int
    """The position within the round, from 0."""

    def __post_init__(self) -> None:
        if len(self.clips) < 2:
            raise DataError(
                f"`Query.clips` holds {len(self.clips)} clip(s), at least 2 are needed."
            )
        contexts = sorted({clip.context_id for clip in self.clips})
        if len(contexts) > 1:
            raise DataError(
                f"`Query.clips` mixes the contexts {contexts}; only clips of one context "
                "can be compared."
            )
        if len({clip.id for clip in self.clips}) < len(self.clips):
            raise DataError("`Query.clips` holds the same clip twice; draw distinct clips.")

    @classmethod
    def from_storage(cls, query_id: str, **fields: Any) -> Query:
        """Rebuild a query that was checked and hashed when it was stored."""
        query = object.__new__(cls)
        query.__dict__.update(fields, id=query_id)
        return query

    @property
    def first(self) -> Clip:
        """The first clip of the pair."""
        return self.clips[0]

    @property
    def second(self) -> Clip:
        """The second clip of the pair."""
        return self.clips[1]

    @property
    def context_id(self) -> str:
        """The context that all its clips share."""
        return self.clips[0].context_id

    @cached_property
    def id(self) -> str:
        """Hex sha256 of root seed, round, index and clip ids: a replayed round asks it once."""
        parts = [str(self.seed), str(self.round), str(self.index), *(c.id for c in self.clips)]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()


class Choice(enum.Enum):
    """A teacher's answer to a pair. A tie and "can't tell" are different answers."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"
    SKIP = "skip"

    @property
    def preference_prob(self) -> float | None:
        """P(first preferred): 1, 0, or 0.5 for a tie; None for SKIP, which is never trained on."""
        return {"first": 1.0, "second": 0.0, "tie": 0.5, "skip": None}[self.value]


@dataclass(frozen=True, eq=False)
class Preference:
    """An answered query.

    Raises:
        DataError: `answered_at` lies before `shown_at`.
    """

    query: Query
    choice: Choice
    teacher: str
    """What answered: "synthetic", "human", or a name of the caller's."""
    labeller: str = ""
    """A pseudonym of the person or model that answered; empty where there is none."""
    shown_at: float = 0.0
    """Seconds since the epoch, UTC; 0.0 where the clock was not read (synthetic)."""
    answered_at: float = 0.0
    """Seconds since the epoch, UTC."""
    details: dict[str, Any] = field(default_factory=dict)
    """Whatever else belongs to the answer, JSON values only (side shown, replays, comment)."""
    soft: float | None = None
    """P(first preferred) in place of what `choice` says, where several labellers were pooled; NaN
    where they cannot tell."""

    def __post_init__(self) -> None:
        if self.answered_at < self.shown_at:
            raise DataError(
                f"`Preference.answered_at` ({self.answered_at}) lies before `shown_at` "
                f"({self.shown_at}); take both from one clock."
            )

    @property
    def preference_prob(self) -> float | None:
        """P(first preferred); None for SKIP."""
        if self.soft is not None:
            return None if math.isnan(self.soft) else self.soft
        return self.choice.preference_prob


@dataclass(frozen=True, eq=False)
class RewardBatch:
    """What a reward model sees, and all it sees: there is no field for a true reward.

    Raises:
        DataError: leading axes disagree.
    """

    obs: Array
    """(B, T, ...) raw observations before each action."""
    actions: Array
    """(B, T, ...) executed actions."""
    next_obs: Array
    """(B, T, ...) raw observations after each action (terminal ones at episode ends)."""
    mask: Array
    """(B, T) bool, False where a shorter clip was padded."""

    def __post_init__(self) -> None:
        lead = self.mask.shape
        for name in ("obs", "actions", "next_obs"):
            shape = getattr(self, name).shape
            if len(lead) != 2 or shape[:2] != lead:
                raise DataError(
                    f"`RewardBatch.{name}` has shape {shape} but the mask is {lead}; "
                    "all begin with (batch, steps)."
                )

    @classmethod
    def from_steps(cls, obs: Array, actions: Array, next_obs: Array) -> RewardBatch:
        """A batch of complete rows (B, T, ...): rollouts, or single steps with T = 1."""
        return cls(obs, actions, next_obs, np.ones(actions.shape[:2], dtype=bool))

    @classmethod
    def from_clips(cls, clips: Sequence[Clip]) -> RewardBatch:
        """Stack clips, zero-padded to the longest; padding is masked out.

        Raises:
            DataError: there is no clip.
        """
        if not clips:
            raise DataError("a batch needs at least one clip, found none.")
        n_steps = max(len(clip) for clip in clips)
        if all(len(clip) == n_steps for clip in clips):
            obs = np.stack([clip.obs for clip in clips])  # (B, T + 1, ...)
            actions = np.stack([clip.actions for clip in clips])  # (B, T, ...)
            return cls.from_steps(obs[:, :-1], actions, obs[:, 1:])
        first = clips[0]
        shape = (len(clips), n_steps)
        obs = np.zeros((*shape, *first.obs.shape[1:]), first.obs.dtype)
        next_obs = np.zeros_like(obs)
        actions = np.zeros((*shape, *first.actions.shape[1:]), first.actions.dtype)
        mask = np.zeros(shape, dtype=bool)
        for row, clip in enumerate(clips):
            n = len(clip)
            obs[row, :n], next_obs[row, :n] = clip.obs[:-1], clip.obs[1:]
            actions[row, :n], mask[row, :n] = clip.actions, True
        return cls(obs, actions, next_obs, mask)
