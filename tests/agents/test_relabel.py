from __future__ import annotations

import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecNormalize

from rlhf_gym.agents.recorder import Recorder
from rlhf_gym.agents.relabel import SubstituteReward, check_hidden
from rlhf_gym.agents.scaled_actions import UnscaledActionsWarning, scale_actions
from rlhf_gym.agents.vec_reward import VecLearnedReward
from rlhf_gym.data import Array, RewardBatch
from rlhf_gym.envs.hide_reward import hide_reward
from rlhf_gym.envs.horizon import HorizonWarning
from rlhf_gym.envs.make import space_info
from rlhf_gym.envs.preference_ready import make_preference_ready
from rlhf_gym.envs.reward_substitution import LearnedRewardWrapper
from rlhf_gym.errors import ConfigError, DataError, NotHiddenError, NumericalError
from rlhf_gym.feedback.reward_model import EnsembleRewardModel
from rlhf_gym.feedback.settings import RewardModelSettings

# DriftEnv's box is smaller on purpose: SB3's policies leave it, and executed actions differ.
pytestmark = pytest.mark.filterwarnings(
    "ignore::rlhf_gym.agents.scaled_actions.UnscaledActionsWarning"
)

N_STEPS = 24
ANY_END = {"allow_variable_horizon": True}


class DriftEnv(gym.Env[Array, Array]):
    """A damped random walk; episodes of given lengths end by termination or truncation in turn."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(-0.3, 0.3, (2,), np.float32)

    def __init__(self, lengths: list[int], kinds: list[bool], true_reward: float = 7.0) -> None:
        self.lengths, self.kinds, self.true_reward = lengths, kinds, true_reward
        self.episode = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        self.x = self.np_random.normal(size=3).astype(np.float32)
        return self.x.copy(), {}

    def step(self, action):
        assert self.action_space.contains(np.asarray(action, np.float32)), "SB3 bounds actions"
        self.x = (0.9 * self.x + np.append(action, action.sum())).astype(np.float32)
        self.t += 1
        done = self.t >= self.lengths[self.episode % len(self.lengths)]
        terminated = done and self.kinds[self.episode % len(self.kinds)]
        return self.x.copy(), self.true_reward, terminated, done and not terminated, {}


def reward_function(batch: RewardBatch) -> Array:
    """Depends on all three inputs, so that a mixed-up observation changes it."""
    return (batch.obs.sum(-1) + 2 * batch.actions.sum(-1) - 3 * batch.next_obs[..., 0]).astype(
        np.float32
    )


def hidden_venv(n_envs, lengths, kinds, true_reward=7.0) -> VecEnv:
    def make() -> gym.Env:
        return hide_reward(Monitor(DriftEnv(lengths, kinds, true_reward)))

    return DummyVecEnv([make for _ in range(n_envs)])


def ppo(venv: VecEnv, **kwargs) -> PPO:
    # log_std 0 on a box of half-width 0.3: most actions leave the box and are bounded.
    return PPO("MlpPolicy", venv, n_steps=N_STEPS, batch_size=8, n_epochs=1, seed=3, **kwargs)


def collected(model: PPO, callback=None) -> dict[str, Array]:
    """The buffer just before the first update."""
    kept: dict[str, Array] = {}

    def keep() -> None:
        buffer = model.rollout_buffer
        names = ("rewards", "advantages", "returns", "observations", "actions")
        kept.update({name: getattr(buffer, name).copy() for name in names})

    model.train = keep  # type: ignore[method-assign]
    model.learn(N_STEPS * model.n_envs, callback=callback)
    return kept


@settings(deadline=None, max_examples=12)
@given(
    n_envs=st.integers(1, 3),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    kinds=st.lists(st.booleans(), min_size=1, max_size=2),
)
def test_relabelling_equals_both_per_step_wrappers(n_envs, lengths, kinds) -> None:
    recorder = Recorder(
        hidden_venv(n_envs, lengths, kinds),
        context_id="Drift-v0",
        n_steps=N_STEPS,
        allow_variable_horizon=True,
    )
    relabelled = collected(
        ppo(VecNormalize(recorder, norm_reward=False)), SubstituteReward(reward_function)
    )
    per_step = VecLearnedReward(hidden_venv(n_envs, lengths, kinds), reward_function, **ANY_END)
    stepwise = collected(ppo(VecNormalize(per_step, norm_reward=False)))

    def make() -> gym.Env:
        return LearnedRewardWrapper(DriftEnv(lengths, kinds), reward_function, **ANY_END)

    single = DummyVecEnv([make for _ in range(n_envs)])
    wrapped = collected(ppo(VecNormalize(single, norm_reward=False)))
    for other in (stepwise, wrapped):
        for name, values in relabelled.items():
            np.testing.assert_allclose(values, other[name], atol=1e-5, rtol=1e-5, err_msg=name)


class NamedParts(DriftEnv):
    """The same walk, pushed by choices, and observed as a Dict with a part to leave out."""

    observation_space = spaces.Dict(  # type: ignore[assignment]
        {
            "x": spaces.Box(-np.inf, np.inf, (3,), np.float32),
            "late": spaces.Discrete(2),
            "unused": spaces.Text(5),
        }
    )

    def __init__(self, action_space, lengths: list[int], kinds: list[bool]) -> None:
        super().__init__(lengths, kinds)
        self.action_space = action_space

    def _named(self, x):
        return {"x": x, "late": int(self.t > 2), "unused": "abc"}

    def reset(self, *, seed=None, options=None):
        x, info = super().reset(seed=seed)
        return self._named(x), info

    def step(self, action):
        assert self.action_space.contains(np.asarray(action, np.int64))
        choice = np.resize(np.asarray(action), 2)
        self.x = (0.9 * self.x + np.append(choice, choice.sum())).astype(np.float32)
        self.t += 1
        done = self.t >= self.lengths[self.episode % len(self.lengths)]
        terminated = done and self.kinds[self.episode % len(self.kinds)]
        return self._named(self.x.copy()), 7.0, terminated, done and not terminated, {}


@settings(max_examples=8)
@given(
    action_space=st.sampled_from([spaces.Discrete(3), spaces.MultiDiscrete([2, 3])]),
    n_envs=st.integers(1, 2),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    kinds=st.lists(st.booleans(), min_size=1, max_size=2),
)
def test_the_default_reward_model_rewards_choices_and_dicts_alike_both_ways(
    action_space, n_envs, lengths, kinds
) -> None:
    def bare() -> gym.Env:
        env = NamedParts(action_space, lengths, kinds)
        return make_preference_ready(env, horizon=40, obs_keys=("x", "late"))

    info = space_info(bare())
    assert info.observation_space.shape == (5,)  # late: 2, x: 3
    model = EnsembleRewardModel(info, RewardModelSettings(n_members=2, hidden=(8,)), seed=1)
    model.input_std.fill_(1.0)  # as a fit would leave it: before the first, no input counts

    def hidden() -> VecEnv:
        return DummyVecEnv([lambda: hide_reward(Monitor(bare()))] * n_envs)

    recorder = Recorder(hidden(), context_id="N", n_steps=N_STEPS, allow_variable_horizon=True)
    relabelled = collected(
        ppo(VecNormalize(recorder, norm_reward=False)), SubstituteReward(model.rewards)
    )
    per_step = VecLearnedReward(hidden(), model.rewards, **ANY_END)
    single = DummyVecEnv([lambda: LearnedRewardWrapper(bare(), model.rewards, **ANY_END)] * n_envs)
    assert np.ptp(relabelled["rewards"]) > 0
    for other in (per_step, single):
        stepwise = collected(ppo(VecNormalize(other, norm_reward=False)))
        for name, values in relabelled.items():
            np.testing.assert_allclose(values, stepwise[name], atol=1e-5, rtol=1e-5, err_msg=name)


def test_the_step_by_step_wrapper_warns_once_of_ends_that_no_limit_set() -> None:
    for kinds, kwargs, n_early, n_warnings in (
        ([True], {}, 4, 1),
        ([False], {}, 0, 0),
        ([True], {"horizon": 5}, 0, 0),  # terminated where the horizon ends
        ([False], {"horizon": 6}, 4, 1),  # cut off before it
        ([True], ANY_END, 4, 0),
    ):
        venv = VecLearnedReward(hidden_venv(2, [5], kinds), reward_function, **kwargs)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            venv.reset()
            for _ in range(12):
                venv.step(np.zeros((2, 2), np.float32))
        assert sum(issubclass(w.category, HorizonWarning) for w in caught) == n_warnings
        assert venv.early_ends.n == n_early


def test_the_step_by_step_wrapper_counts_an_episode_s_steps_from_its_reset() -> None:
    venv = hidden_venv(2, [5], [False])
    venv = VecLearnedReward(venv, reward_function, horizon=6, **ANY_END)
    venv.reset()
    for n_early in (2, 4):
        for _ in range(3):
            venv.step(np.zeros((2, 2), np.float32))
        venv.reset()
        for _ in range(5):
            venv.step(np.zeros((2, 2), np.float32))
        assert venv.early_ends.n == n_early


class Silent(VecEnvWrapper):
    """A vectorised env that does not say what ended an episode."""

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        obs, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            info.pop("TimeLimit.truncated", None)
        return obs, rewards, dones, infos


def test_an_env_that_does_not_say_what_ended_an_episode_is_taken_by_its_horizon() -> None:
    venv = VecLearnedReward(Silent(hidden_venv(2, [5], [False])), reward_function, horizon=5)
    venv.reset()
    for _ in range(7):
        venv.step(np.zeros((2, 2), np.float32))
    assert venv.early_ends.n == 0


def recorded_model(algorithm=PPO, n_envs=2, true_reward=7.0, **kwargs):
    recorder = Recorder(
        hidden_venv(n_envs, [10], [False], true_reward), context_id="Drift-v0", n_steps=N_STEPS
    )
    venv = VecNormalize(recorder, norm_reward=False)
    return algorithm(kwargs.pop("policy", "MlpPolicy"), venv, n_steps=N_STEPS, seed=0, **kwargs)


def test_the_true_reward_changes_no_weight_even_as_nan() -> None:
    weights = []
    for true_reward in (7.0, float("nan")):
        model = recorded_model(true_reward=true_reward, batch_size=16)
        model.learn(4 * N_STEPS * 2, callback=SubstituteReward(reward_function))
        weights.append(torch.cat([p.detach().flatten() for p in model.policy.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert torch.isfinite(weights[0]).all()


def test_an_episode_goes_on_over_learn_calls_that_do_not_reset_it() -> None:
    model = recorded_model(n_envs=1, batch_size=8)
    callback = SubstituteReward(lambda batch: np.full(batch.mask.shape, 0.5, np.float32))
    for _ in range(5):
        model.learn(N_STEPS, callback=callback, reset_num_timesteps=False)
    n_episodes = 5 * N_STEPS // 10
    assert list(callback.episode_returns) == [5.0] * n_episodes  # 10 steps of 0.5 each
    callback.episode_returns.clear()
    model.learn(N_STEPS, callback=callback)  # the envs are reset, and so is the sum
    assert set(callback.episode_returns) == {5.0}


def test_both_returns_are_logged_under_their_own_names() -> None:
    model = recorded_model(batch_size=16)
    logged: dict[str, list[float]] = {}
    record = model.logger.record if hasattr(model, "_logger") else None
    assert record is None
    from stable_baselines3.common.logger import Logger

    class Spy(Logger):
        def record(self, key, value, exclude=None):
            logged.setdefault(key, []).append(value)

    model.set_logger(Spy(None, []))
    constant = SubstituteReward(lambda batch: np.full(batch.mask.shape, 0.5, np.float32))
    model.learn(N_STEPS * 2, callback=constant)
    assert logged["rollout/ep_rew_mean"] == [70.0]  # 10 steps of true reward 7
    assert logged["rollout/ep_rew_learned_mean"] == [5.0]  # 10 steps of 0.5


@pytest.mark.parametrize("algorithm", [A2C, PPO, RecurrentPPO])
def test_relabelling_serves_every_on_policy_algorithm(algorithm) -> None:
    policy = "MlpLstmPolicy" if algorithm is RecurrentPPO else "MlpPolicy"
    extra = {} if algorithm is A2C else {"batch_size": 16}
    model = recorded_model(algorithm, policy=policy, **extra)
    seen: list[tuple[int, ...]] = []

    def spy(batch: RewardBatch) -> Array:
        seen.append(batch.mask.shape)
        return reward_function(batch)

    callback = SubstituteReward(spy)
    model.learn(2 * N_STEPS * 2, callback=callback)
    assert seen == [(2, N_STEPS)] * 2, "one batched forward per rollout"
    assert "compute_returns_and_advantage" not in model.rollout_buffer.__dict__


def test_relabelling_serves_maskable_ppo_with_discrete_actions() -> None:
    class MaskedEnv(DriftEnv):
        action_space = spaces.Discrete(3)

        def step(self, action):
            assert action != 2
            self.action_space_seen = action
            return super().step(np.full(2, 0.1 * action, np.float32))

        def action_masks(self):
            return np.array([True, True, False])

    class Plain(MaskedEnv):
        def step(self, action):
            self.t += 1
            truncated = self.t >= self.lengths[0]
            return self.x.copy(), 1.0, False, truncated, {}

    venv = DummyVecEnv([lambda: hide_reward(Monitor(Plain([8], [False])))])
    recorder = Recorder(venv, context_id="Masked-v0", n_steps=N_STEPS)
    model = MaskablePPO("MlpPolicy", recorder, n_steps=N_STEPS, batch_size=8, seed=0)
    rewards: list[Array] = []

    def spy(batch: RewardBatch) -> Array:
        rewards.append(batch.actions)
        return batch.actions.astype(np.float32)

    model.learn(N_STEPS, callback=SubstituteReward(spy))
    assert set(np.unique(rewards[0])) <= {0, 1}
    assert rewards[0].dtype == np.int64


def test_schedules_run_over_the_whole_run_not_over_each_call() -> None:
    rates: list[float] = []

    def schedule(progress_remaining: float) -> float:
        rates.append(progress_remaining)
        return 1e-4

    model = recorded_model(batch_size=16, learning_rate=schedule)
    rollout = N_STEPS * 2
    rates.clear()
    for _ in range(2):
        substitute = SubstituteReward(reward_function, run_steps=4 * rollout)
        model.learn(rollout, callback=substitute, reset_num_timesteps=False)
    # After each of two rollouts of a run of four: 1 - 1/4 and 1 - 2/4.
    assert sorted(set(rates), reverse=True) == [0.75, 0.5]


def test_a_learn_call_that_was_interrupted_leaves_no_second_substitution() -> None:
    model = recorded_model(batch_size=16)

    class Interrupt(BaseCallback):
        def _on_rollout_end(self) -> None:
            raise KeyboardInterrupt

        def _on_step(self) -> bool:
            return True

    one = SubstituteReward(lambda batch: np.ones(batch.mask.shape, np.float32), run_steps=500)
    for substitute in (one, one, SubstituteReward(one.reward_function)):
        with pytest.raises(KeyboardInterrupt):  # SB3 then skips `_on_training_end`
            model.learn(N_STEPS * 2, callback=[substitute, Interrupt()])
    model.learn(N_STEPS * 2, callback=SubstituteReward(one.reward_function))
    # 1 a step; a truncated episode's last one also has the bootstrap, which SB3 adds.
    assert np.isclose(model.rollout_buffer.rewards, 1.0).mean() > 0.5
    assert not {"_update_current_progress_remaining", "_excluded_save_params"} & set(vars(model))


def test_a_model_can_be_saved_while_its_reward_is_substituted(tmp_path: Path) -> None:
    model = recorded_model(batch_size=16)
    saving = CheckpointCallback(save_freq=N_STEPS, save_path=str(tmp_path))
    substitute = SubstituteReward(reward_function, run_steps=500)
    model.learn(N_STEPS * 2, callback=[substitute, saving])
    saved = PPO.load(next(tmp_path.glob("*.zip")))
    assert "over_the_run" not in repr(saved._update_current_progress_remaining)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e39])
def test_a_reward_per_step_that_is_not_finite_never_reaches_the_learner(wrong: float) -> None:
    bad = VecLearnedReward(
        hidden_venv(1, [5], [False]), lambda batch: np.full(batch.mask.shape, wrong)
    )
    bad.reset()
    with pytest.raises(NumericalError, match="1 of 1 rewards are not finite, the first is"):
        bad.step(np.zeros((1, 2), np.float32))


def test_a_reward_function_of_another_shape_is_refused_by_all() -> None:
    bad = VecLearnedReward(hidden_venv(2, [5], [False]), lambda batch: np.zeros(2))
    bad.reset()
    with pytest.raises(DataError, match=r"shape \(2,\) for a batch of shape \(2, 1\)"):
        bad.step(np.zeros((2, 2), np.float32))
    model = recorded_model(batch_size=16)
    with pytest.raises(DataError, match=r"shape \(2,\)"):
        model.learn(N_STEPS * 2, callback=SubstituteReward(lambda batch: np.zeros(2)))


def test_an_env_that_is_not_hidden_is_refused() -> None:
    venv = DummyVecEnv([lambda: Monitor(DriftEnv([5], [False]))])
    recorder = Recorder(venv, context_id="Drift-v0", n_steps=N_STEPS)
    model = PPO("MlpPolicy", recorder, n_steps=N_STEPS, batch_size=8)
    with pytest.raises(NotHiddenError, match="hide_reward"):
        model.learn(N_STEPS, callback=SubstituteReward(reward_function))


def test_reward_normalisation_by_vec_normalize_is_refused_naming_the_fix() -> None:
    venv = VecNormalize(hidden_venv(1, [5], [False]))
    with pytest.raises(ConfigError, match="norm_reward=False"):
        check_hidden(venv)


def test_a_reward_that_is_not_finite_stops_before_the_update() -> None:
    model = recorded_model(batch_size=16)
    before = model.policy.state_dict()["log_std"].clone()
    bad = SubstituteReward(lambda batch: np.full(batch.mask.shape, np.nan, np.float32))
    with pytest.raises(NumericalError, match="not finite"):
        model.learn(N_STEPS * 2, callback=bad)
    assert torch.equal(before, model.policy.state_dict()["log_std"])


def test_centered_rewards_differ_by_the_rollouts_mean_and_are_logged_as_they_were() -> None:
    plain, centered = (SubstituteReward(reward_function, scale=0.5, centered=c) for c in (0, 1))
    kept = [collected(recorded_model(batch_size=16, gamma=0.0), s) for s in (plain, centered)]
    difference = kept[0]["rewards"] - kept[1]["rewards"]  # gamma 0: no bootstraps among them
    np.testing.assert_allclose(difference, kept[0]["rewards"].mean(), atol=1e-5)  # float32 sums
    assert abs(kept[1]["rewards"].mean()) < 1e-5 < abs(kept[0]["rewards"].mean())
    assert list(plain.episode_returns) == list(centered.episode_returns)


def test_the_true_reward_source_scales_what_was_recorded() -> None:
    model = recorded_model(n_envs=1, batch_size=8, gamma=0.0, gae_lambda=0.0)
    kept = collected(model, SubstituteReward(None, scale=0.5))
    assert np.allclose(kept["rewards"], 3.5)


class CountsEnv(DriftEnv):
    """Observes whole numbers."""

    observation_space = spaces.Box(0, 255, (3,), np.uint8)

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0].clip(0, 255).astype(np.uint8), {}

    def step(self, action):
        obs, *rest = super().step(action)
        return obs.clip(0, 255).astype(np.uint8), *rest


def test_whole_numbers_under_vec_normalize_are_refused_naming_the_fix() -> None:
    def recorder(make) -> Recorder:
        venv = DummyVecEnv([lambda: hide_reward(Monitor(make()))])
        return Recorder(venv, context_id="Counts-v0", n_steps=N_STEPS, **ANY_END)

    raw = recorder(lambda: CountsEnv([5], [False]))
    with pytest.raises(ConfigError, match=r"-1\.944 as 255.*make_preference_ready"):
        ppo(VecNormalize(raw, norm_reward=False)).learn(
            N_STEPS, callback=SubstituteReward(reward_function)
        )
    check_hidden(raw)  # nothing makes fractions of them here
    ready = recorder(lambda: make_preference_ready(CountsEnv([5], [False]), horizon=5))
    ppo(VecNormalize(ready, norm_reward=False)).learn(
        N_STEPS, callback=SubstituteReward(reward_function)
    )


@pytest.mark.filterwarnings("error::rlhf_gym.agents.scaled_actions.UnscaledActionsWarning")
def test_a_policy_on_another_box_is_warned_of_and_scaled_actions_are_not() -> None:
    recorder = recorded_model(batch_size=16).get_env()
    assert recorder is not None
    with pytest.warns(UnscaledActionsWarning, match=r"scale_actions\(Recorder"):
        ppo(recorder).learn(N_STEPS, callback=SubstituteReward(reward_function))
    ppo(scale_actions(recorder)).learn(N_STEPS, callback=SubstituteReward(reward_function))
    squashed = ppo(recorder, use_sde=True, policy_kwargs={"squash_output": True})
    squashed.learn(N_STEPS, callback=SubstituteReward(reward_function))
