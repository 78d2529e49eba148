"""One fit of a text reward model: Bradley-Terry on all pairs of a prompt at once.

All completions of a prompt stand in one batch and each is encoded once, however many pairs it is in
(Ouyang et al. 2022, section 3.5): K texts give K (K - 1) / 2 pairs for K passes of the network, and
no text is trained on several times per epoch. Unlike there, every answer weighs the same, whatever
K: the likelihood of the answers is what is maximised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rlhf_gym.data import Array
from rlhf_gym.errors import ConfigError, NumericalError
from rlhf_gym.feedback.bradley_terry import preference_log_probs, preference_loss
from rlhf_gym.feedback.text_data import EncodedTexts, PairTable
from rlhf_gym.feedback.text_settings import TextRewardSettings
from rlhf_gym.language.batches import by_length
from rlhf_gym.language.serving import without_dropout

__all__ = [
    "TextFitOutcome",
    "TextRewardNet",
    "fit_texts",
    "minibatches",
    "pair_losses",
    "require_agreement",
]

_MOST_APART = 1e-3


class TextRewardNet(nn.Module):
    """A decoder without its vocabulary, and E linear heads on its last hidden state.

    The heads start as N(0, 1 / sqrt(H + 1)) with bias 0 (Stiennon et al. 2020), so that first
    scores of normalised hidden states are of order 1, whatever the width.

    Args:
        trunk: Maps ids to an output with `last_hidden_state` (B, L, H); owned from now on.
        hidden_size: H.
        n_members: E.
        seed: Draws the heads.
    """

    def __init__(self, trunk: nn.Module, hidden_size: int, n_members: int, seed: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.Linear(hidden_size, n_members)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.heads.weight, std=(hidden_size + 1) ** -0.5, generator=generator)
        nn.init.zeros_(self.heads.bias)

    def forward(self, ids: Tensor, last: Tensor) -> Tensor:
        """Score B texts.

        Args:
            ids: (B, L) int64, padded on the right. No mask is needed: a causal model's hidden state
                at the last real token has seen none of the padding behind it.
            last: (B,) int64, the index of each text's last real token.

        Returns:
            (E, B) float32, not normalised.
        """
        with without_dropout(self.trunk):
            hidden = self.trunk(input_ids=ids, use_cache=False).last_hidden_state  # (B, L, H)
        final = hidden[torch.arange(len(ids), device=ids.device), last]  # (B, H)
        scores: Tensor = self.heads(final.to(self.heads.weight.dtype)).float().T  # (E, B)
        return scores

    def score_some(self, texts: EncodedTexts, which: Sequence[int], pad_id: int) -> Tensor:
        """(E, m) float32 scores of some texts; those of like length are computed together."""
        device = self.heads.weight.device
        lengths = torch.tensor([len(texts.rows[index]) for index in which], dtype=torch.int64)
        scores = torch.zeros(self.heads.out_features, len(which), device=device)
        for group in by_length(lengths, device):
            ids, last = texts.padded([which[place] for place in group.tolist()], pad_id)
            scores[:, group.to(device)] = self(ids.to(device), last.to(device))
        return scores

    @torch.no_grad()
    def score_texts(self, texts: EncodedTexts, pad_id: int) -> Tensor:
        """(E, M) float32 scores of all texts, without gradient.

        Raises:
            NumericalError: a score is not finite.
        """
        return _finite(self.score_some(texts, range(len(texts)), pad_id))

    @torch.no_grad()
    def score_rows(self, ids: Tensor, last: Tensor) -> Tensor:
        """(E, B) float32 scores of texts that are tensors already, see `forward`.

        Raises:
            NumericalError: a score is not finite.
        """
        scores = torch.zeros(self.heads.out_features, len(ids), device=ids.device)
        for group in by_length(last + 1, ids.device):
            part = last[group]
            scores[:, group] = self(ids[group, : int(part[-1]) + 1], part)
        return _finite(scores)


@torch.no_grad()
def require_agreement(net: TextRewardNet, texts: EncodedTexts, pad_id: int) -> None:
    """Stop where a text's score depends on the padding behind it or on the rows beside it.

    Up to 4 texts, the shortest and the longest among them, are scored together and alone.

    Raises:
        ConfigError: a score differs by more than 0.001, or a thousandth of the largest; as a rule
            the trunk is not causal.
    """
    lengths = torch.tensor([len(row) for row in texts.rows])
    places = torch.linspace(0, len(lengths) - 1, min(4, len(lengths))).round().long()
    which = lengths.argsort(stable=True)[places].tolist()
    device = net.heads.weight.device
    ids, last = texts.padded(which, pad_id)
    together = net(ids.to(device), last.to(device))  # (E, m)
    alone = torch.cat([net.score_some(texts, [index], pad_id) for index in which], dim=1)  # (E, m)
    gap = float((together - alone).abs().max())
    if gap > _MOST_APART * max(1.0, float(alone.abs().max())):
        raise ConfigError(
            f"the reward model's {type(net.trunk).__name__} scores a text by {gap:.3g} differently "
            f"alone and padded beside longer ones (at most {_MOST_APART} is accepted); use a "
            "causal decoder, whose states have seen nothing behind them."
        )


@dataclass(frozen=True)
class TextFitOutcome:
    """What the optimisation did."""

    n_epochs: int
    """Passes over the training answers, the last one perhaps not complete."""
    n_updates: int
    """Gradient steps."""


def pair_losses(
    first: Tensor, second: Tensor, probs: Tensor, margins: Tensor, settings: TextRewardSettings
) -> Tensor:
    """Loss of each answer: Bradley-Terry, with margins and centering where the settings have them.

    With a margin m the better text has to lead by m: -log sigmoid(d - m) where the first is
    preferred, -log sigmoid(-d - m) where the second is; d is the difference of scores (Touvron et
    al. 2023, equation 2). Centering adds c (s1 + s2)^2 (Eisenstein et al. 2023).

    Args:
        first: (E, B) scores of the first texts.
        second: (E, B) scores of the second texts.
        probs: (B,) P(first preferred): 1, 0, 0.5 for a tie, or any soft label.
        margins: (B,) at least 0, used with `use_margins`.
        settings: Label noise, margins and centering.

    Returns:
        (E, B) losses, nats and the centering term.
    """
    if settings.use_margins:
        log_first, _ = preference_log_probs(first - margins, second, settings.noise)
        _, log_second = preference_log_probs(first + margins, second, settings.noise)
        losses = -(probs * log_first + (1.0 - probs) * log_second)
    else:
        losses = preference_loss(first, second, probs, settings.noise)
    if settings.centering > 0:
        losses = losses + settings.centering * (first + second) ** 2
    return losses


def minibatches(
    table: PairTable, rows: Array, batch_texts: int, rng: np.random.Generator
) -> Iterator[Array]:
    """One epoch: each answer once, in batches of at most `batch_texts` distinct texts.

    Prompts come in random order and are not split, but for those with more texts than a batch: of
    these the answers come in random order, cut where the texts are too many.

    Args:
        table: The answers.
        rows: Those to train on.
        batch_texts: At least 2.
        rng: Orders them.

    Yields:
        Rows of `table.pairs`.
    """
    groups = table.groups[table.pairs[rows, 0]]
    shuffled = rng.permutation(len(rows))
    place = rng.permutation(int(table.groups.max()) + 1)[groups]
    in_order = rows[shuffled[np.argsort(place[shuffled], kind="stable")]]
    bounds = np.flatnonzero(np.diff(table.groups[table.pairs[in_order, 0]])) + 1
    batch: list[Array] = []
    held: set[int] = set()
    for part in np.split(in_order, bounds):
        own = set(table.pairs[part].ravel().tolist())
        if batch and len(held) + len(own) > batch_texts:
            yield np.concatenate(batch)
            batch, held = [], set()
        if len(own) > batch_texts:
            yield from _split(table, part, batch_texts)
            continue
        batch.append(part)
        held |= own
    if batch:
        yield np.concatenate(batch)


def _split(table: PairTable, rows: Array, batch_texts: int) -> Iterator[Array]:
    held: set[int] = set()
    start = 0
    for end, row in enumerate(rows):
        own = set(table.pairs[row].tolist())
        if len(held | own) > batch_texts:
            yield rows[start:end]
            start, held = end, set()
        held |= own
    yield rows[start:]


def fit_texts(
    net: TextRewardNet,
    table: PairTable,
    weights: Array,
    heldout: Array,
    settings: TextRewardSettings,
    pad_id: int,
    rng: np.random.Generator,
) -> TextFitOutcome:
    """Train trunk and heads with AdamW; end with the weights of the best held-out loss.

    Args:
        net: Trained in place.
        table: The answers.
        weights: (E, N) how often each head trains on each answer; 0 where held out.
        heldout: (N,) bool, what chooses among the weights, if it is enough.
        settings: See `TextRewardSettings`.
        pad_id: Any id; what stands there is never read.
        rng: Orders the batches.

    Raises:
        NumericalError: the loss or the gradient is not finite.
    """
    rows = np.flatnonzero(weights.any(axis=0))
    validate = np.flatnonzero(heldout)
    watch = _Watch(net, table, validate, settings, pad_id)
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, settings.learning_rate, weight_decay=settings.weight_decay
    )
    per_epoch = sum(1 for _ in minibatches(table, rows, settings.batch_texts, _clone(rng)))
    total = min(settings.max_updates, settings.max_epochs * per_epoch)
    warmup = max(settings.warmup_fraction * total, 1.0)
    pairs_per_batch = len(rows) / per_epoch
    epoch = update = 0
    while update < total and not watch.stop:
        epoch += 1
        for part in minibatches(table, rows, settings.batch_texts, rng):
            rate = min(1.0, (update + 1) / warmup) * (1.0 - update / total)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * rate
            loss = _batch_loss(net, table, part, weights, settings, pad_id) / pairs_per_batch
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            norm = nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            _require_finite(loss, norm, settings)
            optimizer.step()
            update += 1
            if update % settings.validate_every == 0 or update == total:
                watch.look()
            if update == total or watch.stop:
                break
    watch.restore()
    return TextFitOutcome(epoch, update)


def _batch_loss(
    net: TextRewardNet,
    table: PairTable,
    rows: Array,
    weights: Array,
    settings: TextRewardSettings,
    pad_id: int,
) -> Tensor:
    """Weighted sum of the answers' losses, the mean over the members."""
    device = net.heads.weight.device
    used, flat = np.unique(table.pairs[rows], return_inverse=True)
    scores = net.score_some(table.texts, used.tolist(), pad_id)  # (E, m)
    pairs = torch.as_tensor(flat.reshape(-1, 2), device=device)  # (B, 2)
    losses = pair_losses(
        scores[:, pairs[:, 0]],
        scores[:, pairs[:, 1]],
        torch.as_tensor(table.probs[rows], device=device),
        torch.as_tensor(table.margins[rows], device=device),
        settings,
    )  # (E, B)
    return (losses * torch.as_tensor(weights[:, rows], device=device)).sum(1).mean()


def _finite(scores: Tensor) -> Tensor:
    if not bool(torch.isfinite(scores).all()):
        member, text = (int(i) for i in (~torch.isfinite(scores)).nonzero()[0])
        raise NumericalError(
            f"the reward model's score of text {text} by member {member} is "
            f"{float(scores[member, text])}; its weights diverged. Lower `learning_rate`, or go "
            "back to the last checkpoint."
        )
    return scores


def _require_finite(loss: Tensor, norm: Tensor, settings: TextRewardSettings) -> None:
    for name, value in (("loss", float(loss.detach())), ("gradient's norm", float(norm))):
        if not math.isfinite(value):
            raise NumericalError(
                f"the text reward model's {name} became {value}; lower `learning_rate` (now "
                f"{settings.learning_rate}), or check the weights it started from."
            )


def _clone(rng: np.random.Generator) -> np.random.Generator:
    """A generator in the same state, so that looking ahead leaves the original alone."""
    bits = type(rng.bit_generator)()
    bits.state = rng.bit_generator.state
    return np.random.Generator(bits)


class _Watch:
    """Looks at the held-out loss and keeps the best weights."""

    def __init__(
        self,
        net: TextRewardNet,
        table: PairTable,
        rows: Array,
        settings: TextRewardSettings,
        pad_id: int,
    ) -> None:
        self._net, self._settings, self._pad_id = net, settings, pad_id
        self._best: list[Tensor] | None = None
        self._best_loss, self._n_stale = math.inf, 0
        self._active = len(rows) >= settings.min_validation
        used, flat = np.unique(table.pairs[rows], return_inverse=True)
        self._pairs = torch.as_tensor(flat.reshape(-1, 2))
        lengths = table.texts.completion_lengths[used]
        self._texts = EncodedTexts([table.texts.rows[i] for i in used], lengths, 0, 0)
        self._probs = torch.as_tensor(table.probs[rows])

    @property
    def stop(self) -> bool:
        """Whether it has not become better for too long."""
        return self._n_stale >= self._settings.patience

    def look(self) -> None:
        """Note the loss, and the weights if it is the best."""
        if not self._active:
            return
        scores = self._net.score_texts(self._texts, self._pad_id).cpu()  # (E, m)
        first, second = scores[:, self._pairs[:, 0]], scores[:, self._pairs[:, 1]]
        loss = float(preference_loss(first, second, self._probs, self._settings.noise).mean())
        if loss < self._best_loss:
            self._best = [p.detach().clone() for p in self._net.parameters()]
            self._best_loss, self._n_stale = loss, 0
        else:
            self._n_stale += 1

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best weights back."""
        if self._best is not None:
            for parameter, kept in zip(self._net.parameters(), self._best, strict=True):
                parameter.copy_(kept)
