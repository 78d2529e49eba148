"""Stock Stable-Baselines3 on text: a language model as features extractor, and a KL penalty.

For tiny models and for learning how it works: a token costs a forward pass over the whole text so
far. `rlhf_gym.agents.text` trains on whole completions, and is many times faster.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor, nn

from rlhf_gym.data import Array
from rlhf_gym.errors import ConfigError, NumericalError
from rlhf_gym.language.agreement import ensure_agreement, sample_prompts
from rlhf_gym.language.batches import positions_of
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.scores import allowed_logits, forward
from rlhf_gym.language.serving import without_dropout

__all__ = [
    "SB3_TEXT_DEFAULTS",
    "CausalLMExtractor",
    "KLPenaltyCallback",
    "load_lm_head",
    "text_policy_kwargs",
]

SB3_TEXT_DEFAULTS: dict[str, Any] = {"gamma": 1.0, "gae_lambda": 0.95, "vf_coef": 0.1}
"""What text wants where SB3's PPO has other defaults: a completion is paid at its end, so that a
discount would be a price on length; the loss of the values must not drown that of the tokens in
the trunk they share (Ziegler et al. 2019)."""

# Low enough for probability 0, and finite: 0 * -inf would make the entropy NaN.
_NEVER = -1e9
_N_COMPARED = 4  # tokens, see `ensure_agreement`


class CausalLMExtractor(BaseFeaturesExtractor):
    """Turns the tokens so far into the hidden state of the last one, as features.

    It works on a copy of the model's trunk, so that training leaves the model itself, the natural
    reference, as it was. SB3's `action_net` on top, one linear layer from the hidden state to V
    logits, is then a language-model head; `load_lm_head` gives it the model's own weights.

    Args:
        observation_space: `TokenEnv`'s.
        lm: The language model.

    Raises:
        ConfigError: another observation space, more tokens than the model has embeddings, or a
            model that cannot be computed with padding.
    """

    def __init__(self, observation_space: spaces.Dict, lm: LanguageModel) -> None:
        if not isinstance(observation_space, spaces.Dict) or set(observation_space) != {
            "input_ids",
            "attention_mask",
        }:
            raise ConfigError(
                f"the observation space is {observation_space}, expected `TokenEnv`'s Dict of "
                "`input_ids` and `attention_mask`; leave them unflattened."
            )
        ids = observation_space["input_ids"]
        assert isinstance(ids, spaces.Box)
        highest = int(ids.high.max())
        if highest >= lm.vocab_size:
            raise ConfigError(
                f"the env has {highest + 1} token ids, the model's embedding {lm.vocab_size} rows; "
                "build the task with the model's tokenizer and `vocab_size=lm.vocab_size`."
            )
        ensure_agreement(lm, *sample_prompts(lm), _N_COMPARED)
        if not lm.serving.pads:
            raise ConfigError(
                f"{' '.join(lm.notes)}. SB3 gives it padded rows: train it with "
                "`rlhf_gym.agents.text`, or take another model."
            )
        super().__init__(observation_space, features_dim=lm.hidden_size)
        self.trunk = copy.deepcopy(lm.model.base_model)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """(B, P + T) ids and mask, as the floats that SB3 makes of them -> (B, H)."""
        ids, mask, last = _last_tokens(observations)
        with without_dropout(self.trunk):  # SB3 puts the policy into training mode
            output = self.trunk(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions_of(mask),
                use_cache=False,
            )
        hidden: Tensor = output.last_hidden_state  # (B, L, H)
        return hidden[torch.arange(len(hidden), device=hidden.device), last].float()


def text_policy_kwargs(lm: LanguageModel) -> dict[str, Any]:
    """`policy_kwargs` of SB3's "MultiInputPolicy" over a language model.

    - `net_arch=[]`: no layers between the hidden state and the logits; SB3 would put two of 64
      units there, through which no head's weights could be used.
    - `ortho_init=False`: SB3's default draws every linear layer inside the extractor anew, which
      wipes out a pretrained model.
    """
    return {
        "features_extractor_class": CausalLMExtractor,
        "features_extractor_kwargs": {"lm": lm},
        "net_arch": [],
        "ortho_init": False,
    }


def load_lm_head(
    policy: ActorCriticPolicy, lm: LanguageModel, forbidden: Array | None = None
) -> None:
    """Give a policy the model's head: it then samples what the model would.

    Ids that are never to be sampled get a bias that puts their probability to exactly 0, also for
    algorithms without action masks; no gradient reaches it.

    Args:
        policy: Made with `text_policy_kwargs(lm)`.
        lm: The same model.
        forbidden: (V,) bool, ids to exclude besides the model's own; the task's, as a rule.

    Raises:
        ConfigError: the policy's head has another shape than the model's.
    """
    head = lm.model.get_output_embeddings()
    net, values = policy.action_net, policy.value_net
    assert isinstance(net, nn.Linear) and isinstance(values, nn.Linear)
    if net.weight.shape != head.weight.shape:
        raise ConfigError(
            f"the policy's head is {tuple(net.weight.shape)}, the model's "
            f"{tuple(head.weight.shape)} (tokens, hidden size); make the policy with "
            "`policy_kwargs=text_policy_kwargs(lm)` on an env with `vocab_size=lm.vocab_size`."
        )
    never = lm.forbidden.cpu().numpy()
    if forbidden is not None:
        never = never | np.asarray(forbidden, np.bool_)
    bias = getattr(head, "bias", None)
    with torch.no_grad():
        net.weight.copy_(head.weight)
        net.bias.copy_(torch.zeros(len(never)) if bias is None else bias)
        net.bias[torch.from_numpy(never)] = _NEVER
        # Values start at 0, as our own trainer's do; the first advantages are the returns.
        values.weight.zero_()
        values.bias.zero_()


class KLPenaltyCallback(BaseCallback):
    """Subtracts beta * (log pi(a | s) - log ref(a | s)) from each token's reward.

    SB3 has computed the advantages when it says that a rollout has ended; they are computed once
    more from the new rewards. Logged: `rollout/kl_to_ref`, nats per
    completion. `rollout/ep_rew_mean` stays the env's reward.

    Args:
        beta: The price of a nat, at least 0.
        reference: What the policy is held to; None takes the policy as it is when training starts.
        batch_size: Tokens per forward pass of the reference.

    Raises:
        ConfigError: beta is below 0, or the algorithm has no rollout buffer of Dict observations.
    """

    def __init__(
        self, beta: float, reference: LanguageModel | None = None, batch_size: int = 512
    ) -> None:
        if not beta >= 0:
            raise ConfigError(f"`beta` is {beta}, expected at least 0.")
        super().__init__()
        self.beta = beta
        self.reference = reference
        self.batch_size = batch_size
        self._start: ActorCriticPolicy | None = None

    def _on_training_start(self) -> None:
        model = self.model
        if not isinstance(model, OnPolicyAlgorithm) or not isinstance(
            model.rollout_buffer, DictRolloutBuffer
        ):
            raise ConfigError(
                f"{type(model).__name__} keeps no rollouts of Dict observations; the penalty works "
                "with on-policy algorithms (PPO, A2C, MaskablePPO) on a TokenEnv."
            )
        # Kept from an earlier `learn`: a reference that moves is none.
        if self.reference is None and self._start is None:
            self._start = copy.deepcopy(model.policy)
            self._start.requires_grad_(False)
            self._start.set_training_mode(False)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        assert isinstance(self.model, OnPolicyAlgorithm)
        buffer = self.model.rollout_buffer
        excess = buffer.log_probs - self._reference_log_probs(buffer)  # (n_steps, n_envs)
        if not np.isfinite(excess).all():
            raise NumericalError(
                "the log-probability of a sampled token is not finite under the policy or its "
                "reference; both must allow the same token ids (`load_lm_head(..., forbidden=)`)."
            )
        buffer.rewards -= self.beta * excess
        # Asked for anew: MaskablePPO leaves the values of one step before in `self.locals`.
        last_obs, dones = self.model._last_obs, self.model._last_episode_starts
        assert last_obs is not None and dones is not None
        with torch.no_grad():
            last_values = self.model.policy.predict_values(
                obs_as_tensor(last_obs, self.model.device)
            )
        buffer.compute_returns_and_advantage(last_values=last_values, dones=dones)
        n_ended = float(buffer.episode_starts[1:].sum() + dones.sum())
        self.logger.record("rollout/kl_to_ref", float(excess.sum()) / max(n_ended, 1.0))

    @torch.no_grad()
    def _reference_log_probs(self, buffer: Any) -> Array:
        shape = buffer.log_probs.shape
        device = self.model.device
        flat = {
            key: values.reshape(-1, values.shape[-1]) for key, values in buffer.observations.items()
        }
        actions = buffer.actions.reshape(-1)
        # sb3-contrib's buffer keeps the masks under which the policy sampled.
        masks = getattr(buffer, "action_masks", None)
        parts = []
        for start in range(0, len(actions), self.batch_size):
            rows = slice(start, start + self.batch_size)
            obs = {
                key: torch.as_tensor(values[rows], device=device) for key, values in flat.items()
            }
            chosen = torch.as_tensor(actions[rows], device=device).long()
            allowed = None if masks is None else masks.reshape(len(actions), -1)[rows]
            parts.append(self._score(obs, chosen, allowed).cpu().numpy())
        return np.concatenate(parts).reshape(shape)

    def _score(self, obs: dict[str, Tensor], actions: Tensor, masks: Array | None) -> Tensor:
        if self.reference is not None:
            return _lm_log_probs(self.reference, obs, actions, masks)
        assert self._start is not None
        if masks is None:
            return self._start.evaluate_actions(obs, actions)[1]
        scores: Tensor = self._start.evaluate_actions(obs, actions, masks)[1]  # type: ignore[call-arg]  # MaskablePPO's
        return scores


def _lm_log_probs(
    lm: LanguageModel, obs: dict[str, Tensor], actions: Tensor, masks: Array | None
) -> Tensor:
    """(B,) log-probabilities of the next tokens under the sampler's own distribution."""
    ids, mask, last = _last_tokens(obs)
    logits, _ = forward(lm, ids, mask, positions_of(mask), ids.shape[1])
    picked = allowed_logits(lm, logits[torch.arange(len(ids)), last], 1.0)  # (B, V)
    if masks is not None:
        allowed = torch.as_tensor(masks, device=picked.device) > 0
        picked = picked.masked_fill(~allowed, torch.finfo(picked.dtype).min)
    return picked.log_softmax(-1).gather(1, actions[:, None])[:, 0]


def _last_tokens(obs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (B, L) and mask (B, L), without columns that are padding in all rows, and (B,) ends."""
    mask = obs["attention_mask"] > 0.5
    used = mask.any(0).nonzero()[:, 0]
    columns = slice(int(used[0]), int(used[-1]) + 1)
    mask = mask[:, columns]
    last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)  # (B,)
    return obs["input_ids"][:, columns].long(), mask, last
