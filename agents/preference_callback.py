"""Preference learning for people who keep their own SB3 model and their own `learn` call."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rlhf_gym.agents.recorder import find_recorder
from rlhf_gym.agents.relabel import SubstituteReward
from rlhf_gym.data import Preference, Query
from rlhf_gym.errors import ConfigError
from rlhf_gym.protocols import Acquisition, RewardModel, Teacher, ask_teacher
from rlhf_gym.seeding import generator

__all__ = ["PreferenceLearning"]


class PreferenceLearning(SubstituteReward):
    """An SB3 callback that asks, fits and substitutes the reward while any PPO or A2C learns.

    The first rollout trains on a reward of zero: it is the experience that the first questions are
    about. Before each of the following `len(labels)` rounds, `labels[k]` pairs of recent clips are
    put to the teacher and the reward model is fitted to all answers so far::

        venv = Recorder(make_hidden_venv(), context_id="My-v0", n_steps=1000)
        model = PPO("MlpPolicy", VecNormalize(venv, norm_reward=False))
        model.learn(100_000, callback=PreferenceLearning(reward_model, teacher, uniform, [50] * 10))

    Args:
        reward_model: Fitted in place.
        teacher: Answers at once.
        acquisition: Chooses the pairs.
        labels: Answers per round; their number is the number of rounds.
        rollouts_per_round: Rollouts between two rounds of questions, at least 1.
        clip_length: Steps per clip.
        seed: Decides which clips are asked about, and the fit's shuffling.

    Attributes:
        preferences: All answers so far.
    """

    def __init__(
        self,
        reward_model: RewardModel,
        teacher: Teacher,
        acquisition: Acquisition,
        labels: Sequence[int],
        *,
        rollouts_per_round: int = 1,
        clip_length: int = 50,
        seed: int = 0,
    ) -> None:
        if rollouts_per_round < 1 or not labels or min(labels) < 1:
            raise ConfigError(
                f"`rollouts_per_round` ({rollouts_per_round}) and every entry of `labels` "
                f"({list(labels)}) must be at least 1."
            )
        super().__init__(lambda batch: np.zeros(batch.mask.shape, np.float32))
        self.reward_model = reward_model
        self.teacher = teacher
        self.acquisition = acquisition
        self.labels = list(labels)
        self.rollouts_per_round = rollouts_per_round
        self.clip_length = clip_length
        self.seed = seed
        self.preferences: list[Preference] = []
        self._n_rollouts = 0

    def _on_rollout_start(self) -> None:
        round_, within = divmod(self._n_rollouts - 1, self.rollouts_per_round)
        if self._n_rollouts > 0 and within == 0 and round_ < len(self.labels):
            self._ask_and_fit(round_)
        self._n_rollouts += 1

    def _ask_and_fit(self, round_: int) -> None:
        n = self.labels[round_]
        rng = generator(self.seed, "queries", round_)
        clips = find_recorder(self.training_env).clips(20 * n, self.clip_length, rng)
        full = {clip.id: clip for clip in clips}
        blind = [clip.without_true_rewards() for clip in full.values()]
        pairs = self.acquisition(blind, self.reward_model, n, rng)
        queries = [
            Query((full[first.id], full[second.id]), self.seed, round_, i)
            for i, (first, second) in enumerate(pairs)
        ]
        self.preferences += [_blind(answer) for answer in ask_teacher(self.teacher, queries)]
        if all(answer.preference_prob is None for answer in self.preferences):
            warnings.warn(
                f'all {len(self.preferences)} answers so far are "can\'t tell": there is no reward '
                "to train on yet, and the next round of questions is waited for.",
                stacklevel=2,
            )
            return
        report = self.reward_model.fit(self.preferences, generator(self.seed, "fit", round_))
        self.reward_function = self.reward_model.rewards
        self.logger.record("reward_model/n_labels", len(self.preferences))
        self.logger.record("reward_model/accuracy_train", report.accuracy_train)
        self.logger.record("reward_model/accuracy_heldout", report.accuracy_heldout)


def _blind(answer: Preference) -> Preference:
    """An answer whose clips carry no true rewards: the reward model must not see them."""
    clips = tuple(clip.without_true_rewards() for clip in answer.query.clips)
    return replace(answer, query=replace(answer.query, clips=clips))
