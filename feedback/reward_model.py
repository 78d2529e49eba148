"""The default reward model: a stacked ensemble, normalised and frozen between fits."""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from rlhf_gym.array_files import read_tensors
from rlhf_gym.data import Array, Clip, Preference, RewardBatch
from rlhf_gym.errors import CorruptDataError, DataError
from rlhf_gym.feedback.dataset import PreferenceSet
from rlhf_gym.feedback.encoding import StepEncoder
from rlhf_gym.feedback.metrics import fit_figures
from rlhf_gym.feedback.reward_nets import StackedMLP
from rlhf_gym.feedback.reward_training import (
    PREFERENCES_AT_ONCE,
    FitOutcome,
    PairTensors,
    fit_pairs,
    pair_logits,
)
from rlhf_gym.feedback.settings import RewardModelSettings
from rlhf_gym.feedback.splits import heldout_mask, member_weights
from rlhf_gym.protocols import FitReport, SpaceInfo

__all__ = ["EnsembleRewardModel"]


class EnsembleRewardModel:
    """E stacked networks r(s, a), fitted to preferences by Bradley-Terry.

    Inputs are standardised by the mean and deviation of the labelled clips' steps, outputs to mean
    0 and deviation 1 over them at the end of each fit; both stay frozen until the next. An input
    that is the same in all of these steps, as far as float32 tells, counts as 0 until a fit sees it
    vary. Before the first fit that holds for all of them, so that each step has one reward.

    Args:
        info: The env's spaces.
        settings: Shape and optimisation.
        seed: Draws the initial weights.
        device: "cpu" or a CUDA device.

    Raises:
        ConfigError: spaces it does not take.
    """

    def __init__(
        self,
        info: SpaceInfo,
        settings: RewardModelSettings | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.settings = settings or RewardModelSettings()
        self.encoder = StepEncoder(info, use_next_obs=self.settings.use_next_obs)
        generator = torch.Generator().manual_seed(seed)
        n_members, n_features = self.settings.n_members, self.encoder.n_features
        self.net = StackedMLP(n_members, n_features, self.settings.hidden, generator).to(device)
        self.device = torch.device(device)
        # float64: in float32 a position of 4,000,000 m loses its centimetres when it is centred.
        self.input_mean = torch.zeros(n_features, dtype=torch.float64, device=device)
        self.input_std = torch.full_like(self.input_mean, torch.inf)  # infinite: dropped
        self.output_mean = torch.zeros(n_members, 1, 1, device=device)
        self.output_std = torch.ones(n_members, 1, 1, device=device)

    def member_rewards(self, batch: RewardBatch) -> Array:
        """(E, B, T) float32 normalised rewards; 0 where the mask is False."""
        raw, mask = self._raw_rewards(batch)
        return ((raw - self.output_mean) / self.output_std * mask).cpu().numpy()

    def rewards(self, batch: RewardBatch) -> Array:
        """(B, T) float32, the mean over the members."""
        mean: Array = self.member_rewards(batch).mean(axis=0)
        return mean

    def clip_returns(self, clips: Sequence[Clip]) -> Array:
        """(E, B) float32 sums over each clip on the scale of the fit (logits)."""
        raw, mask = self._raw_rewards(RewardBatch.from_clips(clips))
        return (raw * mask).sum(-1).cpu().numpy()

    @torch.no_grad()
    def _raw_rewards(self, batch: RewardBatch) -> tuple[Tensor, Tensor]:
        mask = torch.as_tensor(batch.mask, device=self.device).float()  # (B, T)
        features = self._normalise(self.encoder(batch))  # (B, T, F)
        return self.net(features.flatten(0, 1)).unflatten(1, mask.shape), mask  # (E, B, T)

    def _normalise(self, features: Array) -> Tensor:
        x = torch.as_tensor(features, device=self.device)
        return ((x - self.input_mean) / self.input_std).float()

    def fit(self, preferences: Sequence[Preference], rng: np.random.Generator) -> FitReport:
        """Fit to all preferences, warm-started from the last fit; SKIP answers are left out.

        Raises:
            DataError: no preference is left to train on.
            NumericalError: the loss is not finite.
        """
        started = time.perf_counter()
        trained = PreferenceSet.from_preferences(preferences).trained()
        fit = self.settings.fit
        if len(trained) == 0:
            raise DataError(
                f"no preference to train on: {len(preferences)} given, 0 not skipped; answer more "
                "queries, or take one of these answers back and give it anew."
            )
        heldout = heldout_mask(trained.query_ids, fit.heldout_fraction)
        if heldout.all():  # a handful of answers: better none to validate on than none to learn
            heldout[:] = False
        features, mask = self._clip_features(trained)
        dropped = self._renew_input_normalisation(features, mask)
        data = self._pair_tensors(trained, features, mask, heldout)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        outcome = fit_pairs(self.net, data, fit, generator)
        self._renew_output_normalisation(data)
        report = self._report(data, heldout, outcome, time.perf_counter() - started)
        return dataclasses.replace(report, dropped_inputs=dropped)

    def _clip_features(self, preferences: PreferenceSet) -> tuple[Array, Array]:
        clips = preferences.clips
        mask = np.arange(clips.actions.shape[1])[None, :] < clips.lengths[:, None]  # (M, T)
        batch = RewardBatch(clips.obs[:, :-1], clips.actions, clips.obs[:, 1:], mask)
        return self.encoder(batch), mask

    def _pair_tensors(
        self, data: PreferenceSet, features: Array, mask: Array, heldout: Array
    ) -> PairTensors:
        weights = member_weights(
            data.query_ids,
            self.settings.n_members,
            heldout,
            bootstrap=self.settings.fit.bootstrap,
        )
        return PairTensors(
            features=self._normalise(features),
            mask=torch.as_tensor(mask, device=self.device).float(),
            pairs=torch.as_tensor(data.pairs, device=self.device),
            probs=torch.as_tensor(data.probs, device=self.device).float(),
            weights=torch.as_tensor(weights, device=self.device),
        )

    def _renew_input_normalisation(self, features: Array, mask: Array) -> tuple[str, ...]:
        """Standardise by these steps; returns the names of the inputs that are dropped."""
        steps = features[mask]  # (steps, F) float32
        # In float64: numpy adds rows one by one, and in float32 a constant 1.3 would vary.
        mean, deviation = steps.mean(0, dtype=np.float64), steps.std(0, dtype=np.float64)
        resolution = np.spacing(np.abs(steps).max(0))  # between two neighbours in float32
        dropped = np.flatnonzero(deviation <= resolution)
        std = deviation.copy()
        std[dropped] = np.inf
        names = tuple(self.encoder.feature_names[i] for i in dropped)
        for i, name in zip(dropped, names, strict=True):
            if deviation[i] > 0 or resolution[i] >= 1:
                warnings.warn(_beyond_resolution(name, mean[i], resolution[i]), stacklevel=4)
        self._change_input_normalisation(
            torch.as_tensor(mean, device=self.device), torch.as_tensor(std, device=self.device)
        )
        return names

    def _change_input_normalisation(self, mean: Tensor, std: Tensor) -> None:
        """Standardise anew, with the network's function kept where it has been fitted.

        An input that was dropped until now meets the weights as they were drawn, which are made for
        standardised inputs; rescaled, they would be multiplied by its raw mean and spread.
        """
        was_used = torch.isfinite(self.input_std)
        is_rescaled = was_used & torch.isfinite(std)
        scale = torch.where(is_rescaled, std / self.input_std, 1.0)
        shift = torch.where(was_used, (mean - self.input_mean) / self.input_std, 0.0)
        self.net.rescale_inputs(scale.float(), shift.float())
        self.input_mean, self.input_std = mean, std

    @torch.no_grad()
    def _renew_output_normalisation(self, data: PairTensors) -> None:
        steps = data.features[data.mask.bool()]  # (steps, F)
        rewards = torch.cat(
            [self.net(part) for part in torch.split(steps, 4096)], dim=1
        )  # (E, steps)
        self.output_mean = rewards.mean(1)[:, None, None]
        self.output_std = rewards.std(1).clamp_min(1e-8)[:, None, None]

    @torch.no_grad()
    def _report(
        self, data: PairTensors, heldout: Array, outcome: FitOutcome, seconds: float
    ) -> FitReport:
        rows = torch.arange(len(data.pairs), device=self.device)
        logits = [
            pair_logits(self.net, data, part) for part in torch.split(rows, PREFERENCES_AT_ONCE)
        ]
        predicted = torch.sigmoid(torch.cat(logits, dim=1).double()).mean(0).cpu().numpy()  # (N,)
        answers = data.probs.double().cpu().numpy()
        return FitReport(
            **fit_figures(predicted, answers, heldout, self.settings.fit.noise),
            n_epochs=outcome.n_epochs,
            weight_decay=outcome.weight_decay,
            seconds=seconds,
        )

    def save(self, folder: Path) -> None:
        """Write `reward_model.safetensors` and `reward_model.json` into an existing folder."""
        tensors = {f"net.{name}": t for name, t in self.net.state_dict().items()}
        for name in ("input_mean", "input_std", "output_mean", "output_std"):
            tensors[name] = getattr(self, name)
        cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(cpu, folder / "reward_model.safetensors")
        text = json.dumps(dataclasses.asdict(self.settings), indent=1)
        (folder / "reward_model.json").write_text(text)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, bit for bit.

        Raises:
            CorruptDataError: the file is damaged or of another shape.
        """
        path = folder / "reward_model.safetensors"
        try:
            tensors = read_tensors(path, str(self.device))
            net = {n.removeprefix("net."): t for n, t in tensors.items() if n.startswith("net.")}
            self.net.load_state_dict(net)
            for name in ("input_mean", "input_std", "output_mean", "output_std"):
                # Runs of earlier versions hold the inputs' statistics in float32.
                setattr(self, name, tensors[name].to(getattr(self, name).dtype))
        except Exception as error:
            raise CorruptDataError(
                f"{path} does not hold this reward model ({error}); restore the file, or use the "
                "settings it was saved with."
            ) from error


def _beyond_resolution(name: str, mean: float, resolution: float) -> str:
    return (
        f"{name} is about {mean:.6g}, where float32 holds steps of {resolution:.3g} only, and "
        "varies by no more than that; the reward model does without it. If it matters, subtract a "
        "fixed offset from it in the env."
    )
