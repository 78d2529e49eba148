"""Supervised fine-tuning: what is learned, what is not, and that it reaches the entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlhf_gym.agents.text.sft import SFTData, SFTSettings, SFTTrainer, encode_examples
from rlhf_gym.envs.text.grammar import ReviewGrammar
from rlhf_gym.errors import ConfigError, DataError, NumericalError
from rlhf_gym.language.batches import encode_prompts
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.reference import reference_of
from rlhf_gym.language.sampler import sample_completions
from rlhf_gym.language.tokenizers import word_tokenizer

LETTERS = word_tokenizer(list("abcd"), separator="")  # ids 3 to 6; PAD 0, BOS 1, EOS 2
DATA = SFTData([[1, 3], [1, 4, 5, 6], [1], [1, 3]], [[4, 5, 2], [6, 2], [3, 3, 3, 3, 2], [2]])


def tiny(seed: int = 0) -> LanguageModel:
    return LanguageModel.tiny(LETTERS, n_layers=1, d_model=16, n_heads=2, max_length=16, seed=seed)


def gradients(trainer: SFTTrainer, data: SFTData = DATA) -> list[torch.Tensor]:
    trainer.optimiser.zero_grad()
    trainer.backward(data.batch(trainer.lm, range(len(data))))
    found = [p.grad for p in trainer.lm.trainable_parameters()]
    return [g.clone() for g in found if g is not None]


def test_each_token_is_predicted_from_those_before_it() -> None:
    # Prompt <bos> a, completion b c <eos>: three predictions, from <bos> a, <bos> a b, and
    # <bos> a b c; nothing is predicted from <eos>, and a is predicted from nothing.
    lm = tiny()
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([[1, 3, 4, 5]])).logits[0]
    logits[:, [0, 1]] = -torch.inf  # PAD and BOS are never written
    logp = logits.log_softmax(-1)
    by_hand = -(logp[1, 4] + logp[2, 5] + logp[3, 2]) / 3
    trainer = SFTTrainer(lm)
    data = SFTData([[1, 3]], [[4, 5, 2]])
    assert trainer.backward(data.batch(lm, [0])) == pytest.approx(float(by_hand), abs=1e-6)
    assert trainer.evaluate(data) == pytest.approx(float(by_hand), abs=1e-6)


def test_the_loss_is_averaged_over_tokens_and_not_over_examples() -> None:
    lm = tiny()
    trainer = SFTTrainer(lm)
    sums, counts = [], []
    for row in range(len(DATA)):
        one = SFTData([DATA.prompts[row]], [DATA.completions[row]])
        counts.append(len(DATA.completions[row]))
        sums.append(trainer.evaluate(one) * counts[-1])
    assert trainer.backward(DATA.batch(lm, range(4))) == pytest.approx(
        sum(sums) / sum(counts), abs=1e-6
    )


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3])
def test_gradients_do_not_depend_on_the_micro_batch(micro_batch_size: int) -> None:
    whole = gradients(SFTTrainer(tiny()))
    cut = gradients(SFTTrainer(tiny(), SFTSettings(micro_batch_size=micro_batch_size)))
    assert len(whole) == len(cut) > 0
    for a, b in zip(whole, cut, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-5)
    assert max(float(g.abs().max()) for g in whole) > 1e-2  # the bound above means something


def test_prompts_are_read_and_not_learned() -> None:
    # Completions say nothing about d after a; prompts are full of it.
    data = SFTData([[1, 3, 6, 3, 6]] * 8, [[4, 2]] * 8)
    lm = tiny()
    learned = SFTData([[1, 3]], [[6]])
    before = SFTTrainer(lm).evaluate(learned)
    settings = SFTSettings(n_epochs=100, batch_size=8, learning_rate=1e-2)
    report = SFTTrainer(lm, settings).train(data, np.random.default_rng(0))
    assert report.nats_per_token_last < 0.1  # the completions are
    assert SFTTrainer(lm).evaluate(learned) > before


def test_a_model_trained_on_short_texts_ends_its_own() -> None:
    lm = tiny()
    texts = ["ab", "abab", "ab"] * 20
    data = encode_examples(
        lm, [""] * len(texts), texts, max_prompt_tokens=1, max_completion_tokens=8
    )
    settings = SFTSettings(n_epochs=40, batch_size=20, learning_rate=1e-2)
    SFTTrainer(lm, settings).train(data, np.random.default_rng(0))
    prompts = encode_prompts(LETTERS, [""] * 200, 1)
    batch = sample_completions(
        lm, prompts.ids, prompts.mask, 12, generator=torch.Generator().manual_seed(0)
    ).batch
    assert float(batch.finished.float().mean()) > 0.95
    written = [LETTERS.decode(ids, skip_special_tokens=True) for ids in batch.completion_lists()]
    assert np.mean([text in {"ab", "abab"} for text in written]) > 0.9


def test_what_is_cut_off_is_counted_and_a_cut_text_has_no_end() -> None:
    data = encode_examples(
        tiny(),
        ["abcd", "a"],
        ["abc", "ab"],
        max_prompt_tokens=3,
        max_completion_tokens=3,
    )
    assert data.prompts == [[1, 5, 6], [1, 3]]  # <bos> stays, the last two letters stay
    assert data.completions == [[3, 4, 5], [3, 4, 2]]
    assert (data.n_truncated_prompts, data.n_truncated_completions) == (1, 1)
    report = SFTTrainer(tiny()).train(data, np.random.default_rng(0))
    assert (report.n_truncated_prompts, report.n_truncated_completions) == (1, 1)


def test_a_report_counts_steps_and_tokens() -> None:
    settings = SFTSettings(n_epochs=3, batch_size=3)
    report = SFTTrainer(tiny(), settings).train(DATA, np.random.default_rng(0))
    assert report.n_steps == 6  # batches of 3 and 1, three times
    assert report.n_tokens == 3 * (3 + 2 + 5 + 1)
    # Random weights of this size hardly prefer anything: 5 ids may be written.
    assert report.nats_per_token_first == pytest.approx(math.log(5), abs=0.2)
    assert report.tokens_per_second > 0


def test_training_is_repeatable_and_frozen_layers_stay() -> None:
    weights = []
    for _ in range(2):
        lm = LanguageModel.tiny(LETTERS, n_layers=2, d_model=16, n_heads=2, max_length=16)
        start = {name: p.detach().clone() for name, p in lm.model.named_parameters()}
        reference_of(lm, 1)
        SFTTrainer(lm, SFTSettings(n_epochs=3)).train(DATA, np.random.default_rng(5))
        weights.append({name: p.detach() for name, p in lm.model.named_parameters()})
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name])
        trained = ".layers.1." in name or name == "model.norm.weight"
        assert torch.equal(value, start[name]) == (not trained), name


def test_the_learning_rate_rises_falls_and_ends_near_zero() -> None:
    cosine = SFTSettings(warmup_fraction=0.1)
    linear = SFTSettings(warmup_fraction=0.1, schedule="linear")
    # 100 steps, 10 of warm-up: 1/11, 2/11, ... 10/11, then from 1 down; half-way at step 55.
    assert [cosine.remaining(k, 100) for k in (0, 9)] == pytest.approx([1 / 11, 10 / 11])
    for settings in (cosine, linear):
        assert settings.remaining(10, 100) == pytest.approx(1)
        assert settings.remaining(55, 100) == pytest.approx(0.5)
    assert linear.remaining(99, 100) == pytest.approx(1 / 90)
    assert cosine.remaining(99, 100) == pytest.approx(math.sin(math.pi / 180) ** 2)
    constant = SFTSettings(warmup_fraction=0, schedule="constant")
    assert [constant.remaining(k, 10) for k in (0, 9)] == [1, 1]


def test_a_model_that_diverges_stops_and_the_loss_is_named() -> None:
    lm = tiny()
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[3] = torch.nan
    before = lm.model.model.norm.weight.detach().clone()
    with pytest.raises(NumericalError, match="the SFT loss is nan"):
        SFTTrainer(lm).train(DATA, np.random.default_rng(0))
    assert torch.equal(lm.model.model.norm.weight, before)


@pytest.mark.slow
def test_fine_tuning_reaches_the_entropy_of_the_grammar() -> None:
    # benchmarks/text_sft.py has five seeds. Held out are reviews of 10,000 x 10.6 tokens.
    grammar = ReviewGrammar()
    lm = LanguageModel.tiny(
        word_tokenizer(grammar.words), n_layers=2, d_model=64, max_length=64, seed=0
    )
    train, heldout = (
        encode_examples(
            lm,
            [""] * len(reviews),
            reviews,
            max_prompt_tokens=1,
            max_completion_tokens=grammar.max_tokens,
        )
        for reviews in (
            grammar.sample(np.random.default_rng(0), 40_000),
            grammar.sample(np.random.default_rng(1), 10_000),
        )
    )
    trainer = SFTTrainer(lm, SFTSettings(batch_size=16, learning_rate=3e-3))
    report = trainer.train(train, np.random.default_rng(2))
    # 62 ids, of which PAD and BOS are never written; the weights start without a preference, but
    # logits of deviation 0.5 cost about 0.5^2 / 2 nats.
    assert report.nats_per_token_first == pytest.approx(math.log(60) + 0.125, abs=0.1)
    assert (report.n_truncated_prompts, report.n_truncated_completions) == (0, 0)
    assert -0.01 <= trainer.evaluate(heldout) - grammar.entropy_nats_per_token() <= 0.02


def test_data_that_cannot_be_trained_on_is_refused() -> None:
    with pytest.raises(DataError, match="1 prompts and 0 completions"):
        SFTData([[1]], [])
    with pytest.raises(DataError, match="0 prompts"):
        SFTData([], [])
    with pytest.raises(DataError, match="this model knows 0 to 6"):
        SFTTrainer(tiny()).train(SFTData([[1]], [[77, 2]]), np.random.default_rng(0))
    with pytest.raises(ConfigError, match="`max_prompt_tokens` is 0"):
        encode_examples(tiny(), ["a"], ["b"], max_prompt_tokens=0, max_completion_tokens=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_epochs", 0),
        ("batch_size", 1.5),
        ("micro_batch_size", 0),
        ("learning_rate", 0.0),
        ("max_grad_norm", math.inf),
        ("warmup_fraction", 1.0),
        ("schedule", "step"),
    ],
)
def test_settings_that_cannot_work_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"`{name}` is {value!r}"):
        SFTSettings(**{name: value})  # type: ignore[arg-type]  # one name of several


def test_rows_that_cannot_be_used_are_left_out_and_listed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lm = LanguageModel.tiny(
        word_tokenizer("the film good".split()), n_layers=1, d_model=8, n_heads=2
    )
    with caplog.at_level("WARNING"):
        data = encode_examples(
            lm,
            ["the film", "the film", "the film", "the plot", "film"],
            [" good", " <pad>", "<eos>\n", " good", " good<eos>"],
            max_prompt_tokens=8,
            max_completion_tokens=8,
        )
    good = lm.tokenizer.convert_tokens_to_ids("good")
    assert data.completions == [[good, lm.eos_id]] * 2
    reasons = dict(data.left_out)
    assert list(reasons) == [1, 2, 3]
    assert "'<pad>'" in reasons[1] and reasons[2] == "its completion is empty"
    assert "its prompt cannot be tokenized" in reasons[3]
    (said,) = caplog.messages
    assert said.startswith("fine-tuning, of 5 examples: 3 left out (row 1: its completion spells")
    with pytest.raises(DataError, match=r"none of 1 examples can be used: row 0: its completion"):
        encode_examples(lm, ["film"], [""], max_prompt_tokens=8, max_completion_tokens=8)


def test_what_is_cut_is_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    encode_examples(
        tiny(),
        ["abcd", "a", "a"],
        ["a", "abcd", "ab"],
        max_prompt_tokens=3,
        max_completion_tokens=3,
    )
    (said,) = caplog.messages
    assert said == (
        "fine-tuning, of 3 examples: 1 completions lost their end and EOS at 3 tokens "
        "(--max-new-tokens); 1 prompts lost their beginning at 3 tokens"
    )
    caplog.clear()
    encode_examples(tiny(), ["a"], ["a"], max_prompt_tokens=3, max_completion_tokens=3)
    assert caplog.messages == []
