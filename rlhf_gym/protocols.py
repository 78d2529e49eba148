"""Where the rooms meet: what an agent, a teacher, a reward model and an acquisition must offer.

`feedback` and `agents` never import each other; the loop hands the parts of one to the other
through these protocols. Anything with the right methods fits: no base class is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from rlhf_gym.data import Array, Choice, Clip, Preference, Query, RewardBatch, Trajectory
from rlhf_gym.errors import DataError

__all__ = [
    "Acquisition",
    "Agent",
    "FitReport",
    "RewardFunction",
    "RewardModel",
    "Signal",
    "SpaceInfo",
    "Teacher",
    "ask_teacher",
]

RewardFunction = Callable[[RewardBatch], Array]
"""(B, T) batch -> (B, T) float32 rewards. A lambda will do."""


@dataclass(frozen=True)
class FitReport:
    """What one fit of a reward model did. Held-out figures are NaN where nothing was held out."""

    n_train: int
    """Preferences trained on (SKIP is never counted)."""
    n_heldout: int
    """Preferences kept back for validation, chosen by query id."""
    n_epochs: int
    """Passes over the training preferences, after early stopping."""
    loss_train: float
    """Mean log-loss per preference, nats."""
    loss_heldout: float
    """Mean log-loss per held-out preference, nats."""
    accuracy_train: float
    """Share of decisive answers predicted, in [0, 1]; ties do not count."""
    accuracy_heldout: float
    """The same on held-out answers."""
    calibration_error: float
    """Expected calibration error (10 bins) on held-out answers, in [0, 1]."""
    weight_decay: float
    """The L2 coefficient that the adaptive rule ended on."""
    seconds: float
    """Wall time."""
    n_heldout_decisive: int = field(default=0, kw_only=True)
    """Held-out answers that are no tie: those that `accuracy_heldout` is a share of."""
    dropped_inputs: tuple[str, ...] = field(default=(), kw_only=True)
    """Inputs left out because they do not vary, e.g. "observation[2]"."""


@runtime_checkable
class RewardModel(Protocol):
    """Learns a reward from preferences. Frozen between fits: its scale does not drift."""

    def member_rewards(self, batch: RewardBatch) -> Array:
        """(E, B, T) float32 rewards of each ensemble member; 0 where the mask is False."""

    def rewards(self, batch: RewardBatch) -> Array:
        """(B, T) float32, the mean over the members: what an agent is trained on."""

    def clip_returns(self, clips: Sequence[Clip]) -> Array:
        """(E, B) float32 sums of each member's rewards over each clip, on the fit's scale.

        The sigmoid of a difference is the member's P(first preferred).
        """

    def fit(self, preferences: Sequence[Preference], rng: np.random.Generator) -> FitReport:
        """Fit to all given preferences; SKIP answers are left out."""

    def save(self, folder: Path) -> None:
        """Write everything a later `load` needs into an existing folder."""

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, bit for bit."""


@runtime_checkable
class Teacher(Protocol):
    """Answers open queries: a rule, a person, or another model."""

    @property
    def name(self) -> str:
        """What stands in `Preference.teacher`."""

    def answer(self, queries: Sequence[Query]) -> list[Preference]:
        """Answer all queries of one round.

        Must depend on nothing but the queries and the teacher's own settings, so that a replayed
        round is answered alike.
        """


def ask_teacher(teacher: Teacher, queries: Sequence[Query]) -> list[Preference]:
    """One answer of a teacher to each query, in the order of its answers.

    Raises:
        DataError: it gave something else; the message names it, and how many were asked and came.
    """
    name = getattr(teacher, "name", None) or type(teacher).__name__
    answers = teacher.answer(queries)

    def refused(what: str) -> DataError:
        return DataError(
            f"the teacher {name!r} was asked {len(queries)} queries and {what}; `answer` returns "
            "a list with one `Preference` for each query. None of these answers was kept."
        )

    if not isinstance(answers, (list, tuple)):
        raise refused(f"returned {type(answers).__name__}")
    for answer in answers:
        if not isinstance(answer, Preference):
            raise refused(f"returned {len(answers)}, one of them a {type(answer).__name__}")
        if not isinstance(answer.choice, Choice):
            raise refused(f"one of its {len(answers)} answers has the `choice` {answer.choice!r}")
        if not isinstance(answer.teacher, str) or not isinstance(answer.labeller, str):
            raise refused("one of its answers has a `teacher` or `labeller` that is no text")
    asked, answered = {q.id for q in queries}, [answer.query.id for answer in answers]
    if foreign := set(answered) - asked:
        raise refused(f"{len(foreign)} of its {len(answers)} answers are about other queries")
    if len(answered) > len(set(answered)):
        n_twice = len(answered) - len(set(answered))
        raise refused(f"returned {len(answers)} answers, {n_twice} of them to a query answered")
    if len(answered) < len(asked):
        raise refused(f"answered {len(answers)}")
    return list(answers)


class Acquisition(Protocol):
    """Decides which pairs are worth an answer."""

    def __call__(
        self,
        clips: Sequence[Clip],
        reward_model: RewardModel | None,
        n: int,
        rng: np.random.Generator,
    ) -> list[tuple[Clip, Clip]]:
        """Choose n pairs of distinct clips of one context.

        The clips carry no true rewards. Where the run fits no reward model there is None.
        """


@dataclass(frozen=True)
class Signal:
    """What an agent improves on.

    Direct methods (DPO, CPL, behaviour cloning) read the preferences; the others the reward model.
    """

    preferences: Sequence[Preference] = ()
    reward_model: RewardModel | None = None
    source: Literal["learned", "true"] = "learned"
    """With "true" the task's own reward is trained on: the yardstick, through the same code."""


class Agent(Protocol):
    """A learner in either domain. Control counts env steps, text counts completions.

    Two commands ask for more: `watch` of a robot for `act(obs: (B, ...)) -> (B, ...)` actions, and
    `export --sb3` for `export_sb3(path) -> list[Path]`, the files it wrote, and, where there is
    one, `export_note`, a line on how to use them, or None.
    """

    on_steps: Callable[[int], None] | None
    """Set by a run; to be called with `n_steps_done` now and then while the agent acts."""

    @property
    def n_steps_done(self) -> int:
        """Env steps (or completions) taken so far, warm-up included, evaluation not."""

    @property
    def counts(self) -> Literal["env_steps", "completions"]:
        """What its steps are, as the figures of a run name them."""

    @property
    def clips_per_query(self) -> int:
        """Clips to choose a question's two from, at least 2."""

    @property
    def steps_unit(self) -> int:
        """A budget is a whole multiple of this: whole rollouts and, where they fit, episodes."""

    def log_to(self, folder: Path) -> None:
        """Write figures of its own, if it has any, as TensorBoard files into this folder."""

    def begin_round(self, seed: np.random.SeedSequence) -> None:
        """Reseed everything random and reset the environments: a round starts afresh."""

    def warm_up(self, n_steps: int) -> None:
        """Take `n_steps` of random or exploratory experience (control), or SFT (text)."""

    def clips(self, n: int, length: int, rng: np.random.Generator) -> list[Clip]:
        """Up to n distinct clips, drawn at random from what it did lately."""

    def improve(self, signal: Signal, n_steps: int) -> dict[str, float]:
        """Spend exactly `n_steps` (a multiple of `steps_unit`) on getting better at `signal`."""

    def evaluate(
        self, n_episodes: int, seed: np.random.SeedSequence, *, random: bool = False
    ) -> list[Trajectory]:
        """Episodes on separate envs, deterministic for control; training is not disturbed.

        With `random`, the untrained yardstick: uniformly random actions.
        """

    def save(self, folder: Path) -> None:
        """Write everything a later `load` needs into an existing folder."""

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, bit for bit."""

    def close(self) -> None:
        """Release environments and files."""


@dataclass(frozen=True)
class SpaceInfo:
    """What a reward model or an agent needs to know of an env: its spaces and its horizon."""

    env_id: str
    observation_space: Any
    action_space: Any
    horizon: int | None
