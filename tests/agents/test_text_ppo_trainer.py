from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf_gym.agents.text.ppo_trainer import TextPPOTrainer
from rlhf_gym.agents.text.rollout import RewardFunction, checked_scores
from rlhf_gym.agents.text.settings import TextPPOSettings
from rlhf_gym.errors import ConfigError, CorruptDataError, DataError, NumericalError, SchemaError
from rlhf_gym.language.batches import TokenBatch, encode_prompts
from rlhf_gym.language.models import LanguageModel, ValueHead
from rlhf_gym.language.reference import reference_of
from rlhf_gym.language.tokenizers import word_tokenizer

PAD, BOS, EOS, A, B, C = range(6)
PROMPTS = ["", "a", "abc", "ccba"]
SETTINGS = TextPPOSettings(
    n_rollouts=4,
    batch_size=24,
    n_epochs=2,
    n_minibatches=2,
    max_new_tokens=6,
    learning_rate=1e-2,
    kl_coef=0.1,
)


def count_a(batch: TokenBatch, prompt_indices: Tensor) -> Tensor:
    return (batch.completion_ids == A).sum(1).float()


def make(
    settings: TextPPOSettings = SETTINGS,
    reward: RewardFunction = count_a,
    *,
    ptx: TokenBatch | None = None,
    num_layers_unfrozen: int | None = None,
) -> TextPPOTrainer:
    tokenizer = word_tokenizer(["a", "b", "c"], separator="")
    lm = LanguageModel.tiny(tokenizer, n_layers=2, d_model=16, n_heads=2, max_length=16, seed=3)
    return TextPPOTrainer(
        lm,
        ValueHead(lm.hidden_size, seed=1),
        reference_of(lm, num_layers_unfrozen),
        reward,
        encode_prompts(tokenizer, PROMPTS, 5),
        settings,
        seed=7,
        ptx=ptx,
    )


def weights(trainer: TextPPOTrainer) -> dict[str, Tensor]:
    modules = (("lm", trainer.lm.model), ("value", trainer.value_head))
    return {f"{n}.{k}": p.detach().clone() for n, m in modules for k, p in m.named_parameters()}


def test_a_rollout_fits_together() -> None:
    trainer = make(dataclasses.replace(SETTINGS, missing_eos_penalty=1.0, whiten_advantages=False))
    rollout = trainer.collect()
    batch, mask = rollout.batch, rollout.batch.completion_mask
    assert torch.equal(rollout.scores, (batch.completion_ids == A).sum(1).float())
    prompts = trainer.prompts.ids[rollout.prompt_indices]
    assert torch.equal(batch.prompt_ids, prompts[:, -batch.prompt_ids.shape[1] :])
    # Summed over a completion the rewards are score - penalty - beta log(pi / ref).
    expected = rollout.scores - (~batch.finished).float()
    expected = expected - 0.1 * (rollout.logprobs - rollout.ref_logprobs).sum(1)
    assert torch.allclose(rollout.rewards.sum(1), expected, atol=1e-5)
    for name in ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns"):
        assert not getattr(rollout, name)[~mask].any(), name
    # The reference is the untrained policy: no KL yet, and a zero value head.
    assert rollout.metrics["kl_to_ref"] == pytest.approx(0, abs=1e-5)
    assert not rollout.values.any()
    assert rollout.metrics["eos_share"] == pytest.approx(batch.finished.float().mean().item())
    assert rollout.metrics["length"] == pytest.approx(mask.sum().item() / 24)


def test_the_first_minibatch_has_ratio_one_whatever_its_padding() -> None:
    trainer = make()
    for _ in range(3):
        metrics = trainer.update(trainer.collect())
        assert metrics["first_ratio_error"] <= 1e-4
        assert metrics["approx_kl"] >= 0
    assert metrics["kl_to_ref_k3"] > 0.01  # the policy has moved


def test_what_the_sampler_noted_is_what_a_forward_pass_finds() -> None:
    rollouts = []
    for rescore in (False, True):
        trainer = make(dataclasses.replace(SETTINGS, rescore=rescore, micro_batch_size=7))
        torch.manual_seed(0)
        for parameter in trainer.value_head.parameters():  # a fresh head says 0 of everything
            torch.nn.init.normal_(parameter, std=0.5)
        rollouts.append(trainer.collect())
    noted, found = rollouts
    assert noted.values.abs().max() > 0.1
    assert torch.equal(noted.batch.completion_ids, found.batch.completion_ids)
    for name in ("logprobs", "values", "ref_logprobs", "rewards", "advantages"):
        # Two orders of adding up in float32.
        assert torch.allclose(getattr(noted, name), getattr(found, name), atol=1e-5), name
    assert noted.metrics["entropy"] == pytest.approx(found.metrics["entropy"], abs=1e-5)
    assert noted.metrics["sampler_mismatch"] == 0 < found.metrics["sampler_mismatch"] <= 1e-4


def test_below_float32_a_forward_pass_gives_the_log_probabilities() -> None:
    assert not make().rescores
    trainer = make()
    trainer.lm.model.to(torch.bfloat16)
    assert trainer.rescores


def test_training_raises_the_reward() -> None:
    settings = dataclasses.replace(SETTINGS, n_rollouts=12, batch_size=64, kl_coef=0.0)
    history = make(settings).train()
    assert history[-1]["score_mean"] > history[0]["score_mean"] + 1


def test_the_learning_rate_decays_over_the_whole_run_and_the_run_ends() -> None:
    trainer = make(dataclasses.replace(SETTINGS, kl_target=0.5, kl_horizon=100))
    history = trainer.train(1) + trainer.train()
    assert [row["learning_rate"] for row in history] == pytest.approx(
        [1e-2, 0.75e-2, 0.5e-2, 0.25e-2]
    )
    assert (trainer.n_rollouts, trainer.n_completions) == (4, 96)
    assert trainer.n_tokens == pytest.approx(sum(row["length"] * 24 for row in history))
    # The first KL is 0: error -1, cut to -.2, over 24 of 100 completions.
    assert history[1]["kl_coef"] == pytest.approx(0.1 * (1 - 0.2 * 0.24))
    with pytest.raises(ConfigError, match="n_rollouts"):
        trainer.update(trainer.collect())


def test_a_callback_sees_each_rollout_and_may_stop() -> None:
    trainer = make()
    seen: list[float] = []
    trainer.train(callback=lambda metrics: seen.append(metrics["score_mean"]) or len(seen) < 2)
    assert len(seen) == trainer.n_rollouts == 2


def test_target_kl_leaves_out_the_step_that_goes_too_far() -> None:
    settings = dataclasses.replace(SETTINGS, n_epochs=8, learning_rate=3e-4)
    trainer = make(dataclasses.replace(settings, target_kl=2e-3))
    n_steps = int(trainer.update(trainer.collect())["n_steps"])
    # The same steps without a limit, and a look at the next one.
    free = make(settings)
    rollout = free.collect()
    steps = []
    for rows in free._minibatches(len(rollout))[: n_steps + 1]:
        before = weights(free)
        steps.append(free._minibatch_step(rollout, rows, 1.0)["approx_kl"])
    assert n_steps >= 2 and max(steps[:n_steps]) <= 1.5 * 2e-3 < steps[n_steps]
    assert all(torch.equal(w, before[name]) for name, w in weights(trainer).items())


def test_a_rollout_that_was_used_still_gives_one_step() -> None:
    trainer = make(dataclasses.replace(SETTINGS, target_kl=1e-4))
    rollout = trainer.collect()
    trainer.update(rollout)
    assert trainer.update(rollout)["n_steps"] == 1


def step_gradient(trainer: TextPPOTrainer, rollout: Any) -> Tensor:
    """The gradient that one optimiser step on the whole rollout was given."""
    trainer._minibatch_step(rollout, torch.arange(len(rollout)), 1.0)
    modules = (trainer.lm.model, trainer.value_head)
    grads = [p.grad.flatten() for m in modules for p in m.parameters() if p.grad is not None]
    return torch.cat(grads)


def corpus() -> TokenBatch:
    texts = [[B, C, B, EOS], [C, EOS], [B, B, C, C, B, EOS]]
    return TokenBatch.from_lists([[BOS]] * 3, texts, PAD, EOS)


def test_micro_batches_change_no_gradient() -> None:
    # The largest norm is out of the way: it would scale what is compared.
    settings = dataclasses.replace(
        SETTINGS, ptx_coef=0.7, ptx_batch_size=7, ent_coef=0.2, max_grad_norm=1e6
    )
    rollout = make(settings, ptx=corpus()).collect()
    gradients = [
        step_gradient(
            make(dataclasses.replace(settings, micro_batch_size=size), ptx=corpus()), rollout
        )
        for size in (None, 5, 1)
    ]
    assert gradients[0].abs().max().item() > 1e-2
    for other in gradients[1:]:
        assert (other - gradients[0]).abs().max().item() <= 1e-5


def test_a_rollout_in_micro_batches_is_the_same_rollout() -> None:
    whole = make().collect()
    parts = make(dataclasses.replace(SETTINGS, micro_batch_size=5)).collect()
    assert torch.equal(whole.batch.completion_ids, parts.batch.completion_ids)
    assert torch.allclose(whole.logprobs, parts.logprobs, atol=1e-5)


def test_a_run_that_was_saved_goes_on_bit_for_bit(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, kl_target=0.5, kl_horizon=100)
    straight = make(settings)
    straight.train()

    first = make(settings)
    first.train(2)
    first.save(tmp_path)
    second = make(settings)
    second.load(tmp_path)
    history = second.train()

    assert second.n_tokens == straight.n_tokens
    assert second.kl.coef == straight.kl.coef
    assert len(history) == 2
    expected = weights(straight)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(second).items())
    assert torch.equal(second.generator.get_state(), straight.generator.get_state())
    # The lesson would be empty if the weights had not moved in between.
    assert any(not torch.equal(t, expected[name]) for name, t in weights(first).items())


def test_a_state_of_other_settings_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    make().save(tmp_path)
    with pytest.raises(SchemaError, match="kl_coef"):
        make(dataclasses.replace(SETTINGS, kl_coef=0.2)).load(tmp_path)
    content = json.loads((tmp_path / "ppo.json").read_text())
    earlier = {k: v for k, v in content["settings"].items() if k != "vf_learning_rate"}
    (tmp_path / "ppo.json").write_text(json.dumps(content | {"settings": earlier}))
    with pytest.raises(SchemaError, match="vf_learning_rate = 'no such setting'"):
        make().load(tmp_path)
    (tmp_path / "ppo.json").write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(SchemaError, match="99"):
        make().load(tmp_path)
    (tmp_path / "ppo.json").write_text(json.dumps(content))
    (tmp_path / "ppo.safetensors").write_bytes(b"short")
    with pytest.raises(CorruptDataError, match="ppo"):
        make().load(tmp_path)
    with pytest.raises(CorruptDataError, match="ppo"):
        make().load(tmp_path / "nowhere")


def test_only_the_unfrozen_layers_and_the_value_head_move() -> None:
    trainer = make(num_layers_unfrozen=1)
    before = weights(trainer)
    trainer.train(1)
    moved = {n for n, t in weights(trainer).items() if not torch.equal(t, before[n])}
    assert any("layers.1." in name for name in moved)
    assert any(name.startswith("value.") for name in moved)
    assert not any("layers.0." in name or "embed" in name for name in moved)


def test_the_pretraining_mix_raises_the_corpus_likelihood() -> None:
    one_text = TokenBatch.from_lists([[BOS]] * 3, [[B, C, B, EOS]] * 3, PAD, EOS)
    settings = dataclasses.replace(
        SETTINGS, n_rollouts=8, ptx_coef=1.0, ptx_batch_size=5, lr_decay="none"
    )
    history = make(settings, lambda batch, rows: [0.0] * len(batch), ptx=one_text).train()
    # One text, which can be learnt by heart: from log 4 nats per token towards 0.
    assert history[0]["ptx_loss"] > 0.8
    assert history[-1]["ptx_loss"] < 0.4
    with pytest.raises(ConfigError, match="ptx_coef"):
        make(settings)


def test_the_pretraining_gradient_is_weighted_by_its_coefficient() -> None:
    # No advantage, no value loss: the corpus is all there is.
    settings = dataclasses.replace(SETTINGS, kl_coef=0.0, vf_coef=0.0, max_grad_norm=1e6)
    gradients = []
    for coef in (1.0, 3.0):
        weighted = dataclasses.replace(settings, ptx_coef=coef)
        trainer = make(weighted, lambda batch, rows: [0.0] * len(batch), ptx=corpus())
        gradients.append(step_gradient(trainer, trainer.collect()))
    assert gradients[0].abs().max().item() > 1e-2
    assert torch.allclose(gradients[1], 3 * gradients[0], atol=1e-5)


def test_sampler_training_and_reference_share_the_temperature() -> None:
    trainer = make(dataclasses.replace(SETTINGS, temperature=0.05))
    metrics = trainer.update(trainer.collect())
    assert metrics["first_ratio_error"] <= 1e-4
    assert metrics["kl_to_ref"] == pytest.approx(0, abs=1e-4)
    # Cold: far below the log 4 of a model that is almost uniform at temperature 1.
    assert metrics["entropy"] < 1.2


def test_the_entropy_bonus_keeps_the_policy_random() -> None:
    settings = dataclasses.replace(SETTINGS, n_rollouts=8, batch_size=64, kl_coef=0.0)
    without = make(settings).train()
    with_bonus = make(dataclasses.replace(settings, ent_coef=1.0)).train()
    assert with_bonus[-1]["entropy"] > without[-1]["entropy"] + 0.1


def test_whitening_is_over_the_rollouts_real_tokens() -> None:
    rollout = make(dataclasses.replace(SETTINGS, whiten_rewards=True)).collect()
    plain = make(dataclasses.replace(SETTINGS, whiten_advantages=False)).collect()
    mask = rollout.batch.completion_mask
    advantages, rewards = rollout.advantages[mask], rollout.rewards[mask]
    assert advantages.mean().item() == pytest.approx(0, abs=1e-5)
    assert advantages.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert rewards.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert rewards.mean().item() == pytest.approx(plain.rewards[mask].mean().item(), abs=1e-5)
    assert plain.rewards[mask].std(correction=0).item() < 0.9


@pytest.mark.parametrize(("given", "of_values"), [(None, 0.1), (0.003, 0.003)])
def test_the_value_head_has_a_rate_of_its_own(given: float | None, of_values: float) -> None:
    # Adam's first step is lr g / (|g| + eps): at most lr, nearly lr where the gradient is large.
    one_step = dataclasses.replace(SETTINGS, n_epochs=1, n_minibatches=1, vf_learning_rate=given)
    trainer = make(one_step)
    before = weights(trainer)
    trainer.update(trainer.collect())
    moved = {k: float((w - before[k]).abs().max()) for k, w in weights(trainer).items()}
    head = max(step for name, step in moved.items() if name.startswith("value."))
    policy = max(step for name, step in moved.items() if name.startswith("lm."))
    assert head == pytest.approx(of_values, rel=1e-3)  # eps 1e-5 beside gradients of 0.1
    assert policy == pytest.approx(SETTINGS.learning_rate, rel=1e-2)  # and of 0.001


# -- rewards ---------------------------------------------------------------------------------------


def test_a_reward_per_token_obeys_the_eos_rule_on_its_sum() -> None:
    def per_token(batch: TokenBatch, rows: Tensor) -> Tensor:
        return torch.ones(batch.completion_ids.shape)  # the padding's ones must not count

    for rule in ("subtract", "replace"):
        settings = dataclasses.replace(
            SETTINGS, kl_coef=0.0, missing_eos=rule, missing_eos_penalty=0.5
        )
        rollout = make(settings, per_token).collect()
        lengths, finished = rollout.batch.lengths.float(), rollout.batch.finished
        assert 0 < int(finished.sum()) < 24
        unfinished = lengths - 0.5 if rule == "subtract" else torch.full_like(lengths, -0.5)
        expected = torch.where(finished, lengths, unfinished)
        assert torch.allclose(rollout.rewards.sum(1), expected, atol=1e-6)
        assert torch.equal(rollout.scores, lengths)


def test_an_array_or_a_list_of_scores_is_as_good_as_a_tensor() -> None:
    batch = TokenBatch.from_lists([[BOS]] * 2, [[A, EOS], [B, C, EOS]], PAD, EOS)
    for scores in ([1, 2.5], np.array([1.0, 2.5]), torch.tensor([1.0, 2.5])):
        assert checked_scores(scores, batch).tolist() == [1.0, 2.5]
    assert checked_scores(np.ones((2, 3)), batch).tolist() == [[1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ([1.0], DataError, "one number per completion"),
        (["good"] * 24, DataError, "not numbers"),
        (None, DataError, "not numbers|one number"),
        ([0.0, math.nan] * 12, NumericalError, "the reward is nan in row 1"),
        ([math.inf] * 24, NumericalError, "the reward is inf in row 0"),
    ],
)
def test_a_bad_reward_stops_and_is_named(answer: Any, error: type[Exception], message: str) -> None:
    trainer = make(reward=lambda batch, rows: answer)
    with pytest.raises(error, match=message):
        trainer.collect()


def spoil(rollout: Any, name: str) -> Any:
    tensor = getattr(rollout, name).clone()
    tensor[0, 0] = math.nan
    return dataclasses.replace(rollout, **{name: tensor})


@pytest.mark.parametrize(
    ("field", "component"), [("advantages", "the policy loss"), ("returns", "the value loss")]
)
def test_a_nan_in_a_loss_stops_before_the_weights(field: str, component: str) -> None:
    trainer = make(dataclasses.replace(SETTINGS, n_minibatches=1))
    rollout = spoil(trainer.collect(), field)
    before = weights(trainer)
    with pytest.raises(NumericalError, match=component):
        trainer.update(rollout)
    assert all(torch.equal(t, before[n]) for n, t in weights(trainer).items())


def test_a_nan_gradient_stops_before_the_weights() -> None:
    trainer = make()
    rollout = trainer.collect()
    before = weights(trainer)
    trainer.value_head.out.bias.register_hook(lambda grad: grad * math.nan)
    with pytest.raises(NumericalError, match="gradient"):
        trainer.update(rollout)
    assert all(torch.equal(t, before[n]) for n, t in weights(trainer).items())


def test_prompts_that_do_not_fit_the_model_are_refused() -> None:
    with pytest.raises(ConfigError, match="16 positions"):
        make(dataclasses.replace(SETTINGS, max_new_tokens=12))
