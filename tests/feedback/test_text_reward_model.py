from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from rlhf_gym.data import Choice, Clip, Preference, Query, RewardBatch
from rlhf_gym.errors import ConfigError, CorruptDataError, DataError, NumericalError
from rlhf_gym.feedback.splits import heldout_mask
from rlhf_gym.feedback.text_reward_model import TextRewardModel
from rlhf_gym.feedback.text_settings import TextRewardSettings
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.tokenizers import train_byte_bpe, word_tokenizer
from rlhf_gym.protocols import RewardModel
from rlhf_gym.text_clips import text_clip

TOKENIZER = word_tokenizer(list("abc"), separator="")
TEXTS = (["ab", "", "c", "abc"], ["", "b", "abca", "c"], [True, False, True, False])


def make_lm(architecture="llama", seed: int = 0, tokenizer=TOKENIZER) -> LanguageModel:
    sizes = {"n_layers": 2, "d_model": 32, "n_heads": 2, "max_length": 32}
    return LanguageModel.tiny(tokenizer, architecture=architecture, seed=seed, **sizes)


def make_model(lm: LanguageModel | None = None, seed: int = 0, **settings) -> TextRewardModel:
    settings = {"max_prompt_tokens": 8, "max_completion_tokens": 8, **settings}
    return TextRewardModel(lm or make_lm(), TextRewardSettings(**settings), seed=seed)


def make_preferences(
    n: int, choice: Choice = Choice.FIRST, n_prompts: int | None = None, **details
) -> list[Preference]:
    """Of two completions the one with more "a"s stands first."""
    rng = np.random.default_rng(n)
    preferences = []
    for index in range(n):
        prompt = "".join(rng.choice(list("abc"), 4)) if n_prompts is None else "abc"[:n_prompts]
        first, second = "".join(rng.choice(list("ab"), 4)), "".join(rng.choice(list("bc"), 4))
        query = Query((text_clip(prompt, "a" + first), text_clip(prompt, second)), 0, 0, index)
        preferences.append(Preference(query, choice, "synthetic", details=details))
    return preferences


def test_it_is_a_reward_model() -> None:
    assert isinstance(make_model(), RewardModel)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_score_is_the_head_on_the_last_real_token(architecture) -> None:
    model = make_model(make_lm(architecture))
    # By hand: BOS a b | c EOS is 1 3 4 5 2, alone and without any padding.
    hidden = model.net.trunk(input_ids=torch.tensor([[1, 3, 4, 5, 2]])).last_hidden_state[0, -1]
    expected = (model.net.heads.weight @ hidden).detach().numpy()  # the bias is still 0
    found = model.scores_of_texts(["ab", "b"], ["c", "aaaaaa"], [True, True])
    assert found.shape == (3, 2) and found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-5)
    assert np.abs(np.diff(found[:, 0])).min() > 1e-3, "the members are different heads"


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_neither_padding_nor_the_batch_changes_a_score(architecture) -> None:
    model = make_model(make_lm(architecture))
    together = model.scores_of_texts(*TEXTS)
    for row in range(4):
        alone = model.scores_of_texts(*([column[row]] for column in TEXTS))
        np.testing.assert_allclose(alone[:, 0], together[:, row], atol=1e-4)
    many = model.scores_of_texts(*(column * 50 for column in TEXTS))  # several batches
    np.testing.assert_allclose(many, np.tile(together, 50), atol=1e-4)
    ids = {"pad_id": 0, "eos_id": 2}
    prompts, completions = [[1, 3, 4], [1]], [[2], [4]]
    for extra in (0, 5):
        batch = TokenBatch.from_lists(
            prompts, completions, prompt_length=3 + extra, completion_length=1 + extra, **ids
        )
        np.testing.assert_allclose(model.scores(batch), together[:, :2], atol=1e-4)


def test_whether_a_completion_ended_by_itself_matters() -> None:
    scores = make_model().scores_of_texts(["a", "a"], ["b", "b"], [True, False])
    assert np.abs(scores[:, 0] - scores[:, 1]).min() > 1e-3


def test_calibration_is_that_of_the_answers_a_fit_held_out() -> None:
    model, preferences = make_model(max_epochs=2, label_noise=0.1), make_preferences(200)
    preferences += make_preferences(50, Choice.SKIP)
    report = model.fit(preferences, np.random.default_rng(0))
    # By hand: whole prompts are held out; a tenth of the answers is taken for a coin's.
    answers = [p for p in preferences if p.choice is not Choice.SKIP]
    mask = heldout_mask([p.query.clips[0].context_id for p in answers], 0.1)
    heldout = [p for p, held in zip(answers, mask, strict=True) if held]
    first, second = (model.clip_returns([p.query.clips[i] for p in heldout]) for i in (0, 1))
    predicted = 0.9 * (1 / (1 + np.exp(second - first))).mean(0) + 0.05
    bins = model.calibration(preferences)
    assert sum(entry["n"] for entry in bins) == report.n_heldout == len(heldout) >= 10
    assert {entry["observed"] for entry in bins} == {1.0}  # the first was always preferred
    tenths = np.floor(10 * predicted)
    assert [entry["n"] for entry in bins] == np.unique(tenths, return_counts=True)[1].tolist()
    for entry, tenth in zip(bins, np.unique(tenths), strict=True):
        expected = predicted[tenths == tenth].mean()
        assert entry["predicted"] == pytest.approx(expected, abs=1e-5)


def test_without_an_answer_there_is_no_calibration() -> None:
    assert make_model().calibration(make_preferences(5, Choice.SKIP)) == []


def test_ids_of_another_tokenizer_are_refused_and_their_text_is_read() -> None:
    model, other = make_model(), make_lm(tokenizer=train_byte_bpe(["ab"], 259))
    assert model.shares_tokenizer(make_lm(seed=5)) and not model.shares_tokenizer(other)
    ids = other.tokenizer("ab", add_special_tokens=False)["input_ids"]
    batch = TokenBatch.from_lists([[other.bos_id]], [ids], other.pad_id, other.eos_id)
    with pytest.raises(DataError, match="Its tokenizer is another"):
        model.scores(batch)
    text = other.tokenizer.decode(ids)
    assert model.scores_of_texts([""], [text], [False]).shape == (3, 1)


def test_scores_are_normalised_on_what_was_fitted_and_frozen_until_the_next_fit() -> None:
    model, preferences = make_model(max_epochs=2), make_preferences(40)
    model.fit(preferences, np.random.default_rng(0))
    clips = list({c.id: c for p in preferences for c in p.query.clips}.values())
    rewards = model.member_rewards(RewardBatch.from_clips(clips)).sum(-1)  # (E, B)
    np.testing.assert_allclose(rewards.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(rewards.std(1, ddof=1), 1, atol=1e-4)
    before = model.clip_returns(clips)
    model.normalise_on(*TEXTS)
    np.testing.assert_array_equal(model.clip_returns(clips), before)
    scores = model.scores_of_texts(*TEXTS)
    np.testing.assert_allclose(scores.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(scores.std(1, ddof=1), 1, atol=1e-4)
    with pytest.raises(DataError, match="1 texts"):
        model.normalise_on(["a"], ["b"], [True])


def test_the_reward_of_a_clip_stands_at_its_last_symbol() -> None:
    model = make_model()
    clips = [text_clip(*parts) for parts in zip(*TEXTS, strict=True)]
    batch = RewardBatch.from_clips(clips)
    rewards = model.member_rewards(batch)
    scores = model.scores_of_texts(*TEXTS)
    for row, clip in enumerate(clips):
        np.testing.assert_array_equal(rewards[:, row, len(clip) - 1], scores[:, row])
    assert (rewards != 0).sum() == 3 * 4
    np.testing.assert_allclose(model.rewards(batch), rewards.mean(0), atol=1e-6)


def test_a_fit_leaves_the_language_model_alone_and_can_be_repeated() -> None:
    lm = make_lm()
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    models = [make_model(lm, max_epochs=2), make_model(lm, max_epochs=2)]
    for model in models:
        model.fit(make_preferences(30), np.random.default_rng(3))
    assert all(torch.equal(t, before[name]) for name, t in lm.model.state_dict().items())
    one, two = (model.scores_of_texts(*TEXTS) for model in models)
    np.testing.assert_array_equal(one, two)


def test_a_frozen_trunk_is_trained_all_the_same() -> None:
    lm = make_lm()
    lm.model.requires_grad_(False)
    model = make_model(lm, max_epochs=1)
    model.fit(make_preferences(20), np.random.default_rng(0))
    trunk = lm.model.base_model.state_dict()
    assert not torch.equal(
        model.net.trunk.state_dict()["layers.0.mlp.up_proj.weight"],
        trunk["layers.0.mlp.up_proj.weight"],
    )


def test_a_fit_reports_what_it_used_and_what_it_cut() -> None:
    skipped = [Preference(p.query, Choice.SKIP, "x") for p in make_preferences(3)]
    ties = make_preferences(5, Choice.TIE)
    model = make_model(max_completion_tokens=5, max_prompt_tokens=4, learning_rate=3e-3)
    report = model.fit([*make_preferences(60), *ties, *skipped], np.random.default_rng(0))
    assert report.n_train + report.n_heldout == 65 and report.n_heldout > 0
    assert report.n_ties == 5
    # Prompts have BOS and 4 tokens, first completions "a", 4 more and EOS, second ones 4 and EOS.
    assert report.n_prompts_truncated == report.n_texts
    long = {c.id for p in [*make_preferences(60), *ties] for c in [p.query.first]}
    assert report.n_completions_truncated == len(long)
    assert report.accuracy_train > 0.9 and report.loss_train < math.log(2)
    assert 0 <= report.calibration_error <= 1 and report.seconds > 0
    # Both kinds have 5 tokens after the cut: a constant correlates with nothing.
    assert math.isnan(report.length_correlation)


def test_the_length_that_a_score_follows_is_seen() -> None:
    longer = []
    for index in range(24):
        first, second = "ab" * (1 + index % 3), "ab"[: index % 2]
        query = Query((text_clip("a", first), text_clip("a", second)), 0, 0, index)
        longer.append(Preference(query, Choice.FIRST, "x"))
    model = make_model(learning_rate=3e-3, max_epochs=20, heldout_fraction=0.0)
    report = model.fit(longer, np.random.default_rng(0))
    clips = list({c.id: c for p in longer for c in p.query.clips}.values())
    # A text clip has two symbols more than texts have letters; tokens are letters and EOS here.
    expected = np.corrcoef(model.clip_returns(clips).mean(0), [len(c) for c in clips])[0, 1]
    assert report.length_correlation == pytest.approx(expected, abs=1e-5)
    assert expected > 0.5, "every preferred text is the longer one"


def test_whole_prompts_are_held_out_where_there_are_several() -> None:
    model = make_model(max_epochs=1, heldout_fraction=0.3)
    report = model.fit(make_preferences(60), np.random.default_rng(0))
    prompts = {p.query.context_id for p in make_preferences(60)}
    chosen = dict(zip(sorted(prompts), heldout_mask(sorted(prompts), 0.3), strict=True))
    expected = sum(chosen[p.query.context_id] for p in make_preferences(60))
    assert report.n_heldout == expected > 0
    one_prompt = make_preferences(60, n_prompts=1)
    found = model.fit(one_prompt, np.random.default_rng(0))
    assert 0 < found.n_heldout < 60, "queries are held out where there is one prompt only"


def test_what_is_held_out_changes_nothing_but_the_report() -> None:
    """The held-out answers are too few to choose among the weights."""
    honest = make_preferences(60)
    prompts = [p.query.context_id for p in honest]
    heldout = heldout_mask(prompts, 0.1)
    assert heldout.any()
    turned = [
        Preference(p.query, Choice.SECOND if out else p.choice, "x")
        for p, out in zip(honest, heldout, strict=True)
    ]
    models = make_model(), make_model()
    reports = [
        model.fit(answers, np.random.default_rng(0))
        for model, answers in zip(models, (honest, turned), strict=True)
    ]
    one, two = (model.scores_of_texts(*TEXTS) for model in models)
    np.testing.assert_array_equal(one, two)
    assert reports[0].accuracy_heldout == 1 - reports[1].accuracy_heldout


def test_nothing_but_ties_teaches_nothing_and_is_not_blown_up() -> None:
    model = make_model(max_epochs=60, learning_rate=3e-3, heldout_fraction=0.0)
    report = model.fit(make_preferences(20, Choice.TIE, n_prompts=1), np.random.default_rng(0))
    assert report.n_ties == 20 and math.isnan(report.accuracy_train)
    assert report.loss_train == pytest.approx(math.log(2), abs=1e-3)
    clips = [c for p in make_preferences(20, n_prompts=1) for c in p.query.clips]
    spread = model.clip_returns(clips).std(1)
    normalised = model.member_rewards(RewardBatch.from_clips(clips)).sum(-1).std(1)
    small = spread < 0.009
    assert small.any() and (normalised[small] < 0.01).all()


def test_centering_keeps_the_raw_scores_around_zero() -> None:
    settings = {"max_epochs": 30, "learning_rate": 3e-3, "heldout_fraction": 0.0}
    means = []
    for centering in (0.0, 0.1):
        model = make_model(centering=centering, **settings)
        with torch.no_grad():
            model.net.heads.bias.fill_(2.0)
        model.fit(make_preferences(60), np.random.default_rng(0))
        clips = [c for p in make_preferences(60) for c in p.query.clips]
        means.append(float(np.abs(model.clip_returns(clips).mean(1)).max()))
    # Bradley-Terry itself has no opinion on a common shift.
    assert means[0] > 1.0 and means[1] < 0.1


def test_bootstrapped_heads_disagree_more() -> None:
    disagreements = []
    for bootstrap in (False, True):
        model = make_model(
            bootstrap=bootstrap, n_members=4, max_epochs=10, learning_rate=3e-3, weight_decay=0.0
        )
        with torch.no_grad():  # equal heads: whatever differs afterwards comes from the resamples
            model.net.heads.weight[:] = model.net.heads.weight[:1]
        model.fit(make_preferences(40), np.random.default_rng(0))
        clips = [c for p in make_preferences(40) for c in p.query.clips]
        disagreements.append(float(model.clip_returns(clips).std(0).mean()))
    assert disagreements[0] < 1e-5 < 1e-3 < disagreements[1]


def test_only_skips_and_other_clips_than_texts_are_refused() -> None:
    skips = [Preference(p.query, Choice.SKIP, "x") for p in make_preferences(4)]
    with pytest.raises(DataError, match="4 given, 0 not"):
        make_model().fit(skips, np.random.default_rng(0))
    clips = tuple(
        Clip(np.full((3, 2), i, np.float32), np.zeros((2, 1), np.float32), "Env") for i in (0, 1)
    )
    robot = Preference(Query(clips, 0, 0, 0), Choice.FIRST, "x")
    with pytest.raises(DataError, match="not text"):
        make_model().fit([robot], np.random.default_rng(0))


def test_limits_that_leave_the_models_positions_are_refused() -> None:
    with pytest.raises(ConfigError, match="make 40 tokens; the model has 32"):
        make_model(max_prompt_tokens=20, max_completion_tokens=20)


def test_a_score_that_is_not_finite_stops() -> None:
    model = make_model()
    with torch.no_grad():
        model.net.heads.bias[0] = math.inf
    with pytest.raises(NumericalError, match="reward model's score"):
        model.scores_of_texts(*TEXTS)


def test_save_and_load_are_bit_exact_with_and_without_the_language_model(tmp_path: Path) -> None:
    model = make_model(max_epochs=1)
    model.fit(make_preferences(20), np.random.default_rng(0))
    model.save(tmp_path)
    again, other = TextRewardModel.from_folder(tmp_path), make_model(make_lm(seed=9), seed=9)
    other.load(tmp_path)
    for reader in (again, other):
        np.testing.assert_array_equal(reader.scores_of_texts(*TEXTS), model.scores_of_texts(*TEXTS))
    assert again.settings == model.settings


@pytest.mark.parametrize("damage", ["truncate", "members", "width", "missing"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    make_model().save(tmp_path)
    path = tmp_path / "reward_model.safetensors"
    reader = make_model(n_members=2 if damage == "members" else 3)
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "missing":
        path.unlink()
        (tmp_path / "reward_model.json").unlink()
    elif damage == "width":
        lm = LanguageModel.tiny(TOKENIZER, n_layers=2, d_model=16, n_heads=2, max_length=32)
        reader = make_model(lm)
    with pytest.raises(CorruptDataError, match=r"reward_model\.safetensors"):
        reader.load(tmp_path)
    if damage == "missing":
        with pytest.raises(CorruptDataError, match="no text reward model"):
            TextRewardModel.from_folder(tmp_path)


def test_hard_answers_on_an_enumerable_task_reach_the_bayes_ceiling() -> None:
    """Toy B: tokens a, b, c and EOS, uniform; ended by EOS or cut at 5 tokens; reward is the number
    of "ab", less 1 without EOS. 20,000 answers by Bradley-Terry on pairs drawn from the uniform
    policy. The ceiling is enumerated here over all 364 texts and pairs."""
    ended = [("".join(s), True) for n in range(5) for s in itertools.product("abc", repeat=n)]
    cut = [("".join(s), False) for s in itertools.product("abc", repeat=5)]
    texts = ended + cut
    drawn = np.array([4.0 ** -(len(text) + end) for text, end in texts])
    reward = np.array([text.count("ab") - (not end) for text, end in texts], float)
    assert len(texts) == 364 and drawn.sum() == pytest.approx(1, abs=1e-12)
    true = 1 / (1 + np.exp(reward[None] - reward[:, None]))  # (364, 364) P(first preferred)
    weight, untied = drawn[:, None] * drawn[None], reward[:, None] != reward[None]
    ceiling = np.average(np.maximum(true, 1 - true)[untied], weights=weight[untied])
    floor = -(weight * (true * np.log(true) + (1 - true) * np.log(1 - true))).sum()
    assert (ceiling, floor) == pytest.approx((0.7404, 0.6487), abs=5e-5)

    rng = np.random.default_rng(0)
    clips = [text_clip("", text, end) for text, end in texts]
    preferences = []
    for index, (a, b) in enumerate(rng.choice(364, (20_000, 2), p=drawn)):
        if a != b:  # equal texts cannot be asked about
            choice = Choice.FIRST if rng.random() < true[a, b] else Choice.SECOND
            query = Query((clips[a], clips[b]), 0, 0, index)
            preferences.append(Preference(query, choice, "synthetic"))
    settings = {"n_members": 1, "batch_texts": 364, "heldout_fraction": 0.0}
    model = make_model(learning_rate=5e-3, max_epochs=80, **settings)
    model.fit(preferences, rng)

    score = model.clip_returns(clips)[0].astype(np.float64)
    difference = score[:, None] - score[None]
    right = np.where(difference > 0, true, 1 - true)
    loss = true * np.logaddexp(0, -difference) + (1 - true) * np.logaddexp(0, difference)
    assert np.average(right[untied], weights=weight[untied]) > ceiling - 0.01
    assert (weight * loss).sum() < floor + 0.01
    # Within ties of the true reward any order is right, so that no model without ties reaches 1.
    ranks = rankdata(reward)
    attainable = math.sqrt(12 * ranks.var() / (364**2 - 1))
    assert spearmanr(score, reward)[0] > 0.98 * attainable


def test_a_trunk_that_sees_the_padding_behind_a_text_is_refused() -> None:
    model = make_model()
    trunk = model.net.trunk

    def averaged(module, args, output):  # as if every state had seen all columns
        output.last_hidden_state = output.last_hidden_state.mean(1, keepdim=True).expand_as(
            output.last_hidden_state
        )
        return output

    hook = trunk.register_forward_hook(averaged)
    with pytest.raises(ConfigError, match=r"LlamaModel scores a text by .* alone and padded"):
        model.fit(make_preferences(40), np.random.default_rng(0))
    hook.remove()
    model.fit(make_preferences(40), np.random.default_rng(0))


def test_the_trunk_of_a_bfloat16_policy_learns_in_float32_and_comes_back(tmp_path: Path) -> None:
    lm = make_lm()
    lm.model.to(torch.bfloat16)
    model = make_model(lm)
    before = [p.detach().clone() for p in model.net.parameters()]
    model.fit(make_preferences(40), np.random.default_rng(0))
    assert all(p.dtype == torch.float32 for p in model.net.parameters())
    assert all(p.dtype == torch.bfloat16 for p in lm.model.parameters())
    moved = torch.cat(
        [(p != b).flatten() for p, b in zip(model.net.parameters(), before, strict=True)]
    )
    assert float(moved.float().mean()) > 0.9
    model.save(tmp_path)
    back = TextRewardModel.from_folder(tmp_path)
    for one, two in zip(model.net.parameters(), back.net.parameters(), strict=True):
        assert torch.equal(one, two)
