"""The text reward model: a transformer with scalar heads, normalised and frozen between fits."""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from rlhf_gym.array_files import read_tensors
from rlhf_gym.data import Array, Clip, Preference, RewardBatch
from rlhf_gym.documents import read_json
from rlhf_gym.errors import ConfigError, CorruptDataError, DataError
from rlhf_gym.feedback.dataset import PreferenceSet
from rlhf_gym.feedback.metrics import (
    CalibrationBin,
    calibration_table,
    correlation,
    fit_figures,
    with_noise,
)
from rlhf_gym.feedback.splits import heldout_mask, member_weights
from rlhf_gym.feedback.text_data import (
    PairTable,
    TextLimits,
    clip_texts,
    encode_texts,
    losses_note,
    pack_right,
    pair_table,
)
from rlhf_gym.feedback.text_reward_training import (
    TextFitOutcome,
    TextRewardNet,
    fit_texts,
    require_agreement,
)
from rlhf_gym.feedback.text_settings import TextRewardSettings
from rlhf_gym.files import write_text
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.loading import refuse_kernels
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.protocols import FitReport
from rlhf_gym.text_clips import symbols_text

__all__ = ["TextFitReport", "TextRewardModel"]

_log = logging.getLogger(__name__)

_LEAST_DEVIATION = 0.01
"""Nats: scores that differ by less say nothing (P(first) within 0.0025 of a half), and are not
blown up to deviation 1."""


@dataclass(frozen=True)
class TextFitReport(FitReport):
    """What one fit of a text reward model did."""

    n_texts: int
    """Distinct texts among the answers."""
    n_ties: int
    """Answers of exactly 0.5."""
    n_identical: int
    """Answers left out because cutting made their two texts equal."""
    n_prompts_truncated: int
    """Texts whose prompt lost its beginning."""
    n_completions_truncated: int
    """Texts whose completion lost its end."""
    n_left_out: int
    """Answers left out because this model's tokenizer cannot write a text of theirs."""
    length_correlation: float
    """Of a text's score (mean over the members) with its completion's tokens, over all texts."""


class TextRewardModel:
    """Scores completions of prompts, fitted to preferences by Bradley-Terry.

    The trunk is a copy of a language model's, in float32; it reads text with that model's
    tokenizer, whatever tokenizer wrote the text. Scores are normalised to mean 0 and deviation 1
    over a reference set at the end of each fit, and frozen until the next (Ziegler et al. 2019,
    section 2.2).

    Args:
        lm: A policy after SFT, or a tiny model of its own (`LanguageModel.tiny`). Not changed.
        settings: Heads, limits and optimisation.
        seed: Draws the heads' first weights.

    Raises:
        ConfigError: the limits leave the model's positions.
    """

    def __init__(
        self, lm: LanguageModel, settings: TextRewardSettings | None = None, *, seed: int = 0
    ) -> None:
        self.settings = s = settings or TextRewardSettings()
        longest = s.max_prompt_tokens + s.max_completion_tokens
        if lm.max_length is not None and longest > lm.max_length:
            raise ConfigError(
                f"`max_prompt_tokens` ({s.max_prompt_tokens}) and `max_completion_tokens` "
                f"({s.max_completion_tokens}) make {longest} tokens; the model has {lm.max_length} "
                "positions. Lower one of them."
            )
        self.tokenizer = lm.tokenizer
        self.pad_id, self.eos_id, self.vocab_size = lm.pad_id, lm.eos_id, lm.vocab_size
        # Its own copy, so in float32: in bfloat16 most weights would not move (`Optimiser`).
        trunk = copy.deepcopy(lm.model.base_model).float()
        for parameter in trunk.parameters():  # a shared reference has its trunk frozen
            parameter.requires_grad_(True)
        self.net = TextRewardNet(trunk, lm.hidden_size, s.n_members, seed).to(lm.device)
        self.mean = torch.zeros(s.n_members, 1, device=lm.device)
        self.std = torch.ones(s.n_members, 1, device=lm.device)
        self._said_cut = False  # texts are scored by the thousand
        self.limits = TextLimits(s.max_prompt_tokens, s.max_completion_tokens, s.on_too_long)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.net.heads.weight.device

    def shares_tokenizer(self, lm: LanguageModel) -> bool:
        """Whether ids of that model mean the same here, so that `scores` can read them."""
        same_ends = (self.pad_id, self.eos_id) == (lm.pad_id, lm.eos_id)
        return same_ends and self.tokenizer.get_vocab() == lm.tokenizer.get_vocab()

    @torch.no_grad()
    def scores(self, batch: TokenBatch) -> Tensor:
        """(E, B) float32 normalised scores of completions given as this model's own token ids.

        Read at the last real token, which the masks tell. Ids that are not the ones its tokenizer
        would cut the text into (a sampler may write such) score differently from their text.

        Raises:
            DataError: ids of another tokenizer; use `scores_of_texts`.
            NumericalError: a score is not finite.
        """
        if (batch.pad_id, batch.eos_id) != (self.pad_id, self.eos_id) or (
            batch.input_ids.numel() and int(batch.input_ids.max()) >= self.vocab_size
        ):
            raise DataError(
                f"the batch has PAD {batch.pad_id}, EOS {batch.eos_id} and ids up to "
                f"{int(batch.input_ids.max())}; this reward model has {self.pad_id}, {self.eos_id} "
                f"and {self.vocab_size} ids. Its tokenizer is another: call `scores_of_texts`."
            )
        return (self.net.score_rows(*pack_right(batch.to(self.device))) - self.mean) / self.std

    def scores_of_texts(
        self, prompts: Sequence[str], completions: Sequence[str], finished: Sequence[bool]
    ) -> Array:
        """(E, B) float32 normalised scores of texts, from whatever tokenizer they came.

        Args:
            prompts: B texts, may be empty.
            completions: B texts, may be empty.
            finished: Whether each completion ended by itself.

        Raises:
            DataError: see `encode_texts`.
            NumericalError: a score is not finite.
        """
        raw = self._raw(prompts, completions, finished)
        return ((raw - self.mean) / self.std).cpu().numpy()

    def normalise_on(
        self, prompts: Sequence[str], completions: Sequence[str], finished: Sequence[bool]
    ) -> None:
        """Give scores mean 0 and deviation 1 on these texts, for instance the policy's samples.

        A fit does so on the texts it was given; differences in `clip_returns` stay as they are.

        Raises:
            DataError: fewer than two texts.
        """
        if len(prompts) < 2:
            raise DataError(f"{len(prompts)} texts; a deviation needs at least 2.")
        self._normalise(self._raw(prompts, completions, finished))

    def clip_returns(self, clips: Sequence[Clip]) -> Array:
        """(E, B) float32 scores of text clips on the scale of the fit (logits).

        Raises:
            DataError: a clip that holds no text.
        """
        return self._raw(*clip_texts(clips)).cpu().numpy()

    def member_rewards(self, batch: RewardBatch) -> Array:
        """(E, B, T) float32: the normalised score at a text clip's last symbol, 0 elsewhere.

        Raises:
            DataError: a row is no whole text clip.
        """
        texts = [
            symbols_text(row[real]) for row, real in zip(batch.actions, batch.mask, strict=True)
        ]
        scores = self.scores_of_texts(*(list(column) for column in zip(*texts, strict=True)))
        rewards = np.zeros((len(scores), *batch.mask.shape), np.float32)
        rewards[:, np.arange(len(texts)), batch.mask.sum(1) - 1] = scores
        return rewards

    def rewards(self, batch: RewardBatch) -> Array:
        """(B, T) float32, the mean over the members."""
        mean: Array = self.member_rewards(batch).mean(axis=0)
        return mean

    def fit(self, preferences: Sequence[Preference], rng: np.random.Generator) -> TextFitReport:
        """Fit to all preferences, warm-started from the last fit; SKIP answers are left out.

        Raises:
            DataError: nothing is left to train on, a clip holds no text, or a margin is bad.
            NumericalError: a loss, a gradient or a score is not finite.
        """
        started = time.perf_counter()
        trained = PreferenceSet.from_preferences(preferences).trained()
        if len(trained) == 0:
            raise DataError(
                f"no preference to train on: {len(preferences)} given, 0 not skipped; answer more "
                "queries, or take one of these answers back and give it anew."
            )
        table = pair_table(trained, self.tokenizer, self.limits)
        return self.fit_table(table, rng, started=started)

    def fit_table(
        self, table: PairTable, rng: np.random.Generator, *, started: float | None = None
    ) -> TextFitReport:
        """Fit to answers that are rows of token ids already, see `fit`.

        Args:
            table: The answers, by this model's tokenizer.
            rng: Orders the batches.
            started: When the fit began, by `time.perf_counter`; None: now.
        """
        started = time.perf_counter() if started is None else started
        require_agreement(self.net, table.texts, self.pad_id)
        heldout = self._heldout(table)
        weights = member_weights(
            table.query_ids, self.settings.n_members, heldout, bootstrap=self.settings.bootstrap
        )
        outcome = fit_texts(self.net, table, weights, heldout, self.settings, self.pad_id, rng)
        scores = self.net.score_texts(table.texts, self.pad_id)  # (E, M)
        self._normalise(scores)
        return self._report(table, scores, heldout, outcome, time.perf_counter() - started)

    def calibration(self, preferences: Sequence[Preference]) -> list[CalibrationBin]:
        """Predicted against observed P(first preferred), on the answers that a fit keeps back.

        Args:
            preferences: Exactly what the last fit was given; of others it may have known some.

        Returns:
            The bins of `calibration_table`; none where no answer was held out.

        Raises:
            DataError: as `fit`.
        """
        trained = PreferenceSet.from_preferences(preferences).trained()
        if len(trained) == 0:
            return []
        table = pair_table(trained, self.tokenizer, self.limits)
        heldout = self._heldout(table)
        predicted = _predicted(table, self.net.score_texts(table.texts, self.pad_id))[heldout]
        answered = with_noise(predicted, self.settings.noise)
        return calibration_table(answered, table.probs[heldout])

    def save(self, folder: Path) -> None:
        """Write weights, settings, tokenizer and shape into an existing folder."""
        tensors = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        tensors |= {"mean": self.mean, "std": self.std}
        # clone: safetensors refuses tensors that share memory, as some tied trunks' do
        cpu = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        save_file(cpu, folder / "reward_model.safetensors")
        write_text(folder / "reward_model.json", json.dumps(asdict(self.settings), indent=1))
        backbone = folder / "reward_model_backbone"
        backbone.mkdir(exist_ok=True)
        self.net.trunk.config.save_pretrained(backbone)  # type: ignore[operator, union-attr]  # a transformers config, typed as a module
        self.tokenizer.save_pretrained(backbone)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, bit for bit, into a model of the same shape.

        Raises:
            CorruptDataError: the file is damaged or of another shape.
        """
        path = folder / "reward_model.safetensors"
        try:
            tensors = read_tensors(path, str(self.device))
            net = {n.removeprefix("net."): t for n, t in tensors.items() if n.startswith("net.")}
            if tensors["mean"].shape != self.mean.shape:
                raise ValueError(f"it has {len(tensors['mean'])} members, not {len(self.mean)}")
            self.net.load_state_dict(net)
            self.mean, self.std = tensors["mean"], tensors["std"]
        except Exception as error:
            raise CorruptDataError(
                f"{path} does not hold this reward model ({error}); restore the file, or use the "
                "language model and the settings it was saved with."
            ) from error

    @classmethod
    def from_folder(cls, folder: Path, *, device: str = "cpu") -> TextRewardModel:
        """A model that `save` wrote, without the language model it was made from.

        Raises:
            CorruptDataError: a file is missing, damaged or of another version.
        """
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        backbone = folder / "reward_model_backbone"
        try:
            settings = TextRewardSettings(**read_json(folder / "reward_model.json"))
            config = AutoConfig.from_pretrained(backbone, trust_remote_code=False)
            refuse_kernels(config, backbone)
            with torch.random.fork_rng(devices=[]):  # what is drawn is overwritten by `load`
                model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]  # untyped there
                    config, dtype=getattr(config, "dtype", None) or torch.float32
                )
            tokenizer = AutoTokenizer.from_pretrained(backbone, trust_remote_code=False)
        except (OSError, ValueError, TypeError) as error:
            raise CorruptDataError(
                f"`{folder}` holds no text reward model that can be read ({error}); give the "
                "folder that `save` wrote into."
            ) from error
        reward_model = cls(LanguageModel(model.to(device), tokenizer), settings)
        reward_model.load(folder)
        return reward_model

    def _raw(
        self, prompts: Sequence[str], completions: Sequence[str], finished: Sequence[bool]
    ) -> Tensor:
        texts = encode_texts(self.tokenizer, prompts, completions, finished, self.limits)
        if not self._said_cut and (note := losses_note(texts)):
            self._said_cut = True
            _log.warning("scoring by the %s (said once)", note)
        return self.net.score_texts(texts, self.pad_id)

    def _normalise(self, scores: Tensor) -> None:
        self.mean = scores.mean(1, keepdim=True)
        deviation = scores.std(1, keepdim=True)
        self.std = torch.where(deviation >= _LEAST_DEVIATION, deviation, 1.0)

    def _heldout(self, table: PairTable) -> Array:
        """(N,) bool, by prompt where that leaves answers on both sides, else by query."""
        fraction = self.settings.heldout_fraction
        heldout = np.zeros(len(table), bool)
        if self.settings.heldout_by == "prompt":
            heldout = heldout_mask(table.context_ids, fraction)
        if heldout.all() or not heldout.any():
            heldout = heldout_mask(table.query_ids, fraction)
        if heldout.all():  # a handful of answers: better none to validate on than none to learn
            heldout[:] = False
        return heldout

    def _report(
        self,
        table: PairTable,
        scores: Tensor,
        heldout: Array,
        outcome: TextFitOutcome,
        seconds: float,
    ) -> TextFitReport:
        answers = table.probs.astype(np.float64)
        return TextFitReport(
            **fit_figures(_predicted(table, scores), answers, heldout, self.settings.noise),
            n_epochs=outcome.n_epochs,
            weight_decay=self.settings.weight_decay,
            seconds=seconds,
            n_texts=len(table.texts),
            n_ties=int((answers == 0.5).sum()),
            n_identical=table.n_identical,
            n_prompts_truncated=table.texts.n_prompts_truncated,
            n_completions_truncated=table.texts.n_completions_truncated,
            n_left_out=len(table.left_out),
            length_correlation=correlation(
                scores.mean(0).cpu().numpy(), table.texts.completion_lengths
            ),
        )


def _predicted(table: PairTable, scores: Tensor) -> Array:
    """(N,) float64 P(first preferred), the mean over the members, by (E, M) scores of the texts."""
    pairs = torch.as_tensor(table.pairs, device=scores.device)
    difference = (scores[:, pairs[:, 0]] - scores[:, pairs[:, 1]]).double()  # (E, N)
    predicted: Array = torch.sigmoid(difference).mean(0).cpu().numpy()
    return predicted
