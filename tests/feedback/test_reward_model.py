from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from rlhf_gym.data import Choice, Clip, Preference, Query, RewardBatch
from rlhf_gym.errors import ConfigError, CorruptDataError, DataError, NumericalError
from rlhf_gym.feedback import reward_training
from rlhf_gym.feedback.dataset import PreferenceSet
from rlhf_gym.feedback.encoding import StepEncoder
from rlhf_gym.feedback.metrics import correlation
from rlhf_gym.feedback.reward_model import EnsembleRewardModel
from rlhf_gym.feedback.reward_nets import StackedMLP
from rlhf_gym.feedback.settings import FitSettings, RewardModelSettings
from rlhf_gym.feedback.splits import bootstrap_weights, heldout_mask, member_weights
from rlhf_gym.feedback.teachers import SyntheticTeacher
from rlhf_gym.protocols import SpaceInfo

OBS, ACTION = 3, 2
INFO = SpaceInfo(
    "Test-v0",
    spaces.Box(-np.inf, np.inf, (OBS,), np.float32),
    spaces.Box(-1, 1, (ACTION,), np.float32),
    50,
)
WEIGHTS = np.array([1.5, -1.0, 0.5], np.float32)


def make_clips(n: int, seed: int = 0, lengths=(8,)) -> list[Clip]:
    """Clips whose true reward is linear in the observation minus a control cost."""
    rng = np.random.default_rng(seed)
    clips = []
    for i in range(n):
        t = lengths[i % len(lengths)]
        obs = (rng.normal(size=(t + 1, OBS)) + rng.normal(size=OBS)).astype(np.float32)
        actions = rng.uniform(-1, 1, (t, ACTION)).astype(np.float32)
        rewards = obs[:-1] @ WEIGHTS - (actions**2).sum(-1)
        clips.append(Clip(obs, actions, "Test-v0", rewards.astype(np.float32)))
    return clips


def make_preferences(n: int, seed: int = 0, lengths=(8,), **teacher) -> list[Preference]:
    clips = make_clips(2 * n, seed, lengths)
    queries = [Query((clips[2 * i], clips[2 * i + 1]), seed, 0, i) for i in range(n)]
    return SyntheticTeacher(**teacher).answer(queries)


def make_model(**settings) -> EnsembleRewardModel:
    fit = FitSettings(**settings.pop("fit", {}))
    return EnsembleRewardModel(INFO, RewardModelSettings(fit=fit, **settings), seed=1)


def test_stacked_members_equal_separate_networks() -> None:
    net = StackedMLP(3, 5, (7, 6), torch.Generator().manual_seed(0))
    x = torch.randn(11, 5, generator=torch.Generator().manual_seed(1))
    for member in range(3):
        h = x
        for layer, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
            h = h @ w[member] + b[member]
            if layer < 2:
                h = torch.where(h > 0, h, 0.01 * h)
        torch.testing.assert_close(net(x)[member], h[:, 0], atol=1e-6, rtol=1e-5)


def test_rescaling_the_inputs_keeps_the_function() -> None:
    net = StackedMLP(2, 4, (8,), torch.Generator().manual_seed(0))
    new = torch.randn(9, 4)
    scale, shift = torch.rand(4) + 0.5, torch.randn(4)
    before = net(new * scale + shift)
    net.rescale_inputs(scale, shift)
    torch.testing.assert_close(net(new), before, atol=1e-5, rtol=1e-5)


def test_a_linear_reward_is_recovered_from_an_oracle() -> None:
    model = make_model(fit={"learning_rate": 3e-3, "max_epochs": 40})
    report = model.fit(make_preferences(400), np.random.default_rng(0))
    fresh = make_clips(200, seed=9)
    true = np.array([clip.true_return for clip in fresh])
    # The task is linear plus a small bowl: far below these bounds means that something is broken.
    assert correlation(model.clip_returns(fresh).mean(0), true) > 0.95
    assert report.accuracy_heldout > 0.85 and report.accuracy_train > 0.9
    assert report.n_train + report.n_heldout == 400
    shuffled = [
        Preference(p.query, Choice.FIRST if i % 2 else Choice.SECOND, "coin")
        for i, p in enumerate(make_preferences(400))
    ]
    other = make_model(fit={"learning_rate": 3e-3, "max_epochs": 10})
    other.fit(shuffled, np.random.default_rng(0))
    assert correlation(other.clip_returns(fresh).mean(0), true) < 0.7, "labels carry the signal"


def test_rewards_are_normalised_over_the_labelled_steps_and_frozen() -> None:
    model = make_model(fit={"max_epochs": 3})
    preferences = make_preferences(60)
    model.fit(preferences, np.random.default_rng(0))
    clips = {c.id: c for p in preferences for c in p.query.clips}
    batch = RewardBatch.from_clips(list(clips.values()))
    rewards = model.member_rewards(batch)
    np.testing.assert_allclose(rewards.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(rewards.std((1, 2)), 1, atol=1e-3)  # n - 1 against n
    np.testing.assert_array_equal(rewards, model.member_rewards(batch))
    np.testing.assert_allclose(model.rewards(batch), rewards.mean(0), atol=1e-6)


def test_padding_changes_no_return() -> None:
    model = make_model(fit={"max_epochs": 2})
    model.fit(make_preferences(40, lengths=(3, 8, 5)), np.random.default_rng(0))
    clips = make_clips(6, seed=4, lengths=(3, 8, 5))
    together = model.clip_returns(clips)
    for i, clip in enumerate(clips):
        np.testing.assert_allclose(model.clip_returns([clip])[:, 0], together[:, i], atol=1e-5)
    batch = RewardBatch.from_clips(clips)
    assert (model.member_rewards(batch)[:, ~batch.mask] == 0).all()


def test_the_order_of_the_answers_does_not_choose_who_is_held_out() -> None:
    ids = [p.query.id for p in make_preferences(200)]
    mask = heldout_mask(ids, 0.2)
    assert (heldout_mask(ids[::-1], 0.2)[::-1] == mask).all()
    assert (heldout_mask(ids, 0.3) >= mask).all(), "a larger share holds out the same and more"
    weights = bootstrap_weights(ids, 4)
    assert (bootstrap_weights(ids[::-1], 4)[:, ::-1] == weights).all()


def test_bootstrap_counts_are_poisson() -> None:
    counts = bootstrap_weights([f"query {i}" for i in range(4000)], 3)
    # P(0) = P(1) = 1/e and mean 1; 12,000 draws have standard errors 0.0044 and 0.0091: 4 of them.
    assert abs((counts == 0).mean() - np.exp(-1)) < 0.018
    assert abs(counts.mean() - 1) < 0.037
    assert not (counts[0] == counts[1]).all()


@given(st.integers(0, 2**32 - 1))
def test_fitting_is_deterministic_given_the_generator(seed: int) -> None:
    a, b = make_model(fit={"max_epochs": 1}), make_model(fit={"max_epochs": 1})
    preferences = make_preferences(12)
    for model in (a, b):
        model.fit(preferences, np.random.default_rng(seed))
    for x, y in zip(a.net.state_dict().values(), b.net.state_dict().values(), strict=True):
        assert torch.equal(x, y)


def test_ties_pull_returns_together_and_skips_are_left_out() -> None:
    preferences = make_preferences(30)
    skips = [Preference(p.query, Choice.SKIP, "x") for p in make_preferences(10, seed=5)]
    report = make_model(fit={"max_epochs": 1}).fit(preferences + skips, np.random.default_rng(0))
    assert report.n_train + report.n_heldout == 30
    ties = [Preference(p.query, Choice.TIE, "x") for p in preferences]
    model = make_model(fit={"max_epochs": 60, "learning_rate": 3e-3, "heldout_fraction": 0.0})

    def mean_gap() -> float:
        gaps = [np.abs(np.diff(model.clip_returns([*p.query.clips]))).mean() for p in ties]
        return float(np.mean(gaps))

    model.fit(preferences, np.random.default_rng(0))
    before = mean_gap()
    model.fit(ties, np.random.default_rng(0))
    assert mean_gap() < 0.5 * before


def test_only_skips_is_an_error_that_counts() -> None:
    skips = [Preference(p.query, Choice.SKIP, "x") for p in make_preferences(4)]
    with pytest.raises(DataError, match="4 given, 0 not"):
        make_model().fit(skips, np.random.default_rng(0))


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.4])
def test_a_fit_finds_the_probability_that_explains_the_answers_and_their_noise(noise) -> None:
    (answer,) = make_preferences(1)
    query, clips = answer.query, list(answer.query.clips)
    # Three of four say first: the likelihood is greatest where (1 - e) P + e / 2 is 3/4.
    choices = [Choice.FIRST] * 3 + [Choice.SECOND]
    preferences = [Preference(query, c, "x", labeller=str(i)) for i, c in enumerate(choices)]
    fit = {"max_updates": 100_000, "max_epochs": 1500, "learning_rate": 2e-3, "weight_decay": 0.0,
           "heldout_fraction": 0.0, "label_noise": noise}  # fmt: skip
    model = make_model(n_members=2, hidden=(16,), fit=fit)
    model.fit(preferences, np.random.default_rng(0))
    prob = (0.75 - noise / 2) / (1 - noise)
    returns = model.clip_returns(clips)  # (2, 2)
    logits = returns[:, 0] - returns[:, 1]
    assert logits == pytest.approx(np.log(prob / (1 - prob)), abs=1e-3)


def test_a_constant_input_is_dropped_however_many_steps_there_are() -> None:
    clips = make_clips(400, lengths=(50,))
    for clip in clips:
        clip.obs[:, 1] = 1.3  # in float32 its naive mean over 20,000 steps is off by 1e-4
        clip.obs[:, 2] = 1000 + 0.01 * clip.obs[:, 2]  # large, and yet it varies
    pairs = [Query((clips[2 * i], clips[2 * i + 1]), 0, 0, i) for i in range(200)]
    model = make_model(fit={"max_epochs": 1})
    report = model.fit(SyntheticTeacher().answer(pairs), np.random.default_rng(0))
    assert report.dropped_inputs == ("observation[1]", "next observation[1]")
    batch = RewardBatch.from_clips(clips[:2])
    before = model.rewards(batch)
    batch.obs[..., 1] = -1e6  # what no answer was about, no reward depends on
    assert (model.rewards(batch) == before).all()
    steps = np.concatenate([clip.obs[:-1] for clip in clips]).astype(np.float64)
    found = model.input_std[:3].numpy()[[0, 2]]
    np.testing.assert_allclose(found, steps.std(0)[[0, 2]], rtol=1e-5)


def in_other_units(clips: list[Clip], index: int, unit: float, offset: float) -> list[Clip]:
    """The same clips with one component of the observation as unit * x + offset."""
    changed = []
    for clip in clips:
        obs = clip.obs.astype(np.float64)
        obs[:, index] = unit * obs[:, index] + offset
        changed.append(dataclasses.replace(clip, obs=obs.astype(np.float32)))
    return changed


def fitted(clips: list[Clip], n: int, **fit) -> EnsembleRewardModel:
    """A model fitted to an oracle's answers about the first 2n clips, pair by pair."""
    queries = [Query((clips[2 * i], clips[2 * i + 1]), 0, 0, i) for i in range(n)]
    chosen = [
        Choice.FIRST
        if np.sum(q.first.true_rewards) > np.sum(q.second.true_rewards)
        else Choice.SECOND
        for q in queries
    ]
    # The id of a query depends on its clips: without the split, other units train on the same.
    model = make_model(fit={"heldout_fraction": 0.0, "bootstrap": False, **fit})
    answers = [Preference(q, c, teacher="oracle") for q, c in zip(queries, chosen, strict=True)]
    model.fit(answers, np.random.default_rng(0))
    return model


@pytest.mark.parametrize("power", [-60, -20, 10, 40])
def test_the_unit_of_an_input_changes_no_reward(power: int) -> None:
    """By a power of two everything scales exactly, so the rewards are equal bit for bit."""
    clips = make_clips(60)
    expected = fitted(clips, 30, max_epochs=5).rewards(RewardBatch.from_clips(clips))
    clips = in_other_units(clips, 0, 2.0**power, 0.0)
    found = fitted(clips, 30, max_epochs=5).rewards(RewardBatch.from_clips(clips))
    assert (found == expected).all()


@pytest.mark.parametrize("offset", [-(2.0**8), 2.0**12, 2.0**16])
def test_the_origin_of_an_input_changes_no_reward(offset: float) -> None:
    """On a grid of 1/64 float32 adds these offsets exactly; only the mean's last bit moves."""
    clips = [dataclasses.replace(c, obs=np.round(c.obs * 64) / 64) for c in make_clips(60)]
    expected = fitted(clips, 30, max_epochs=5).rewards(RewardBatch.from_clips(clips))
    clips = in_other_units(clips, 0, 1.0, offset)
    found = fitted(clips, 30, max_epochs=5).rewards(RewardBatch.from_clips(clips))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("unit", "offset"),
    [(500, 0), (8, 1013), (1, -4e6), (3, 1.7e9)],
    ids=["mm", "hPa", "northing", "Unix time"],
)
@pytest.mark.filterwarnings("ignore:.*float32 holds steps")
def test_an_uninformative_input_spoils_no_fit_whatever_its_mean_and_spread(
    unit: float, offset: float
) -> None:
    clips = make_clips(400)
    clips = [dataclasses.replace(c, true_rewards=c.obs[:-1, 0] - c.obs[:-1, 1]) for c in clips]
    truth = np.concatenate([c.true_rewards for c in clips[200:]])
    found = []
    for tried in (clips, in_other_units(clips, 2, unit, offset)):
        rewards = fitted(tried, 100).rewards(RewardBatch.from_clips(tried[200:]))
        found.append(correlation(rewards.ravel(), truth))
    assert found[0] > 0.8 and abs(found[1] - found[0]) < 0.05


def test_an_input_beyond_what_float32_resolves_is_dropped_with_a_warning() -> None:
    clips = in_other_units(make_clips(20), 1, 1.0, 1.7e9)
    with pytest.warns(UserWarning, match=r"^(next )?observation\[1\] is about 1.7e\+09, where"):
        model = fitted(clips, 10, max_epochs=1)
    assert torch.isinf(model.input_std).nonzero()[:, 0].tolist() == [1, OBS + ACTION + 1]


def test_an_input_that_begins_to_vary_is_learned_as_from_the_start() -> None:
    clips = in_other_units(make_clips(400), 0, 1000.0, 5000.0)
    still = [dataclasses.replace(c, obs=c.obs * np.float32([0, 1, 1])) for c in clips]
    queries = [Query((clips[2 * i], clips[2 * i + 1]), 0, 1, i) for i in range(150)]
    answers = SyntheticTeacher().answer(queries)
    truth = np.concatenate([c.true_rewards for c in clips[300:]])
    found = []
    for first in (still, clips):
        model = fitted(first, 100)
        model.fit(answers, np.random.default_rng(1))
        rewards = model.rewards(RewardBatch.from_clips(clips[300:]))
        found.append(correlation(rewards.ravel(), truth))
    assert found[1] > 0.8 and abs(found[0] - found[1]) < 0.05, found


def test_a_later_fit_begins_with_the_function_of_the_last_one() -> None:
    clips = make_clips(60)
    model = fitted(clips, 30, max_epochs=5)
    before = model.clip_returns(clips)
    rng = np.random.default_rng(0)
    mean = model.input_mean + torch.as_tensor(rng.normal(size=len(model.input_mean)))
    std = model.input_std * torch.as_tensor(rng.uniform(0.5, 2.0, len(mean)))
    model._change_input_normalisation(mean, std)
    np.testing.assert_allclose(model.clip_returns(clips), before, atol=1e-4)


@pytest.mark.parametrize("start", [0.2, 10.0, 100.0])
def test_the_weight_decay_keeps_its_start_where_nothing_moves_it(start: float, monkeypatch) -> None:
    monkeypatch.setattr(reward_training, "_WEIGHT_DECAY_FACTOR", 1.0)
    model = make_model(fit={"max_epochs": 2, "weight_decay": start, "min_validation": 1})
    report = model.fit(make_preferences(100), np.random.default_rng(0))
    assert report.weight_decay == pytest.approx(start)


def test_a_member_whose_resample_is_empty_trains_on_all() -> None:
    ids = [f"query {i}" for i in range(3)]
    heldout = np.array([False, False, True])
    weights = member_weights(ids, 200, heldout, bootstrap=True)
    drawn = bootstrap_weights(ids, 200) * ~heldout
    empty = ~drawn.any(axis=1)
    assert 0 < empty.sum() < 100  # exp(-2) = 0.14 of 200 members draw neither of the two
    assert (weights[empty] == [1, 1, 0]).all() and (weights[~empty] == drawn[~empty]).all()
    assert (member_weights(ids, 2, heldout, bootstrap=False) == [[1, 1, 0]] * 2).all()


def test_save_and_load_are_bit_exact(tmp_path: Path) -> None:
    model, other = make_model(), EnsembleRewardModel(INFO, seed=99)
    model.fit(make_preferences(40), np.random.default_rng(0))
    model.save(tmp_path)
    other.load(tmp_path)
    clips = make_clips(5)
    np.testing.assert_array_equal(model.clip_returns(clips), other.clip_returns(clips))
    batch = RewardBatch.from_clips(clips)
    np.testing.assert_array_equal(model.rewards(batch), other.rewards(batch))


@pytest.mark.parametrize("damage", ["truncate", "other shape", "missing"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    make_model().save(tmp_path)
    path = tmp_path / "reward_model.safetensors"
    reader = make_model()
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "missing":
        path.unlink()
    else:
        reader = make_model(hidden=(5,))
    with pytest.raises(CorruptDataError, match=r"reward_model\.safetensors"):
        reader.load(tmp_path)


def test_actions_of_other_kinds_are_encoded() -> None:
    obs = np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)
    box = spaces.Box(-1, 1, (2, 3))
    encoder = StepEncoder(SpaceInfo("x", box, spaces.Discrete(3, start=1), None))
    batch = RewardBatch.from_steps(obs, np.array([[1, 3]]), obs)
    assert encoder(batch)[0].tolist() == [
        [0, 1, 2, 3, 4, 5, 1, 0, 0],
        [6, 7, 8, 9, 10, 11, 0, 0, 1],
    ]
    both = StepEncoder(SpaceInfo("x", box, spaces.MultiBinary(2), None), use_next_obs=True)
    batch = RewardBatch.from_steps(obs, np.array([[[1, 0], [0, 1]]]), obs + 100)
    assert both(batch).shape == (1, 2, 14) and both(batch)[0, 0, -1] == 105


@pytest.mark.parametrize(
    ("obs", "action"),
    [(spaces.Text(5), spaces.Discrete(2)), (spaces.Box(0, 1), spaces.Tuple([spaces.Discrete(2)]))],
)
def test_spaces_it_does_not_take_are_refused_saying_what_it_takes(obs, action) -> None:
    with pytest.raises(ConfigError, match="it takes observations Box"):
        EnsembleRewardModel(SpaceInfo("x", obs, action, None))


@pytest.mark.parametrize(
    "settings", [{"max_epochs": 0}, {"learning_rate": 0.0}, {"label_noise": 1.0}, {"patience": 0}]
)
def test_impossible_settings_are_refused(settings) -> None:
    with pytest.raises(ConfigError):
        FitSettings(**settings)


def test_a_diverging_fit_stops_naming_the_learning_rate() -> None:
    model = make_model(fit={"learning_rate": 1e30, "max_epochs": 3})
    with pytest.raises(NumericalError, match="learning_rate"):
        model.fit(make_preferences(80), np.random.default_rng(0))


def test_a_columnar_set_and_a_list_of_objects_fit_alike() -> None:
    preferences = make_preferences(30)
    a, b = make_model(fit={"max_epochs": 2}), make_model(fit={"max_epochs": 2})
    a.fit(preferences, np.random.default_rng(0))
    b.fit(PreferenceSet.from_preferences(preferences), np.random.default_rng(0))
    clips = make_clips(3)
    np.testing.assert_array_equal(a.clip_returns(clips), b.clip_returns(clips))
