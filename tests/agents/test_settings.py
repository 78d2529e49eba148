from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlhf_gym.agents.settings import AgentSettings, align, load_settings
from rlhf_gym.envs import TASK_IDS, make_env, space_info
from rlhf_gym.errors import ConfigError


def settings_of(n_steps: int = 256, batch_size: int = 256, n_envs: int = 8) -> AgentSettings:
    return AgentSettings(
        n_envs=n_envs,
        n_timesteps=1000,
        normalize_obs=True,
        policy="MlpPolicy",
        reward_scale=1.0,
        algorithm={"n_steps": n_steps, "batch_size": batch_size, "policy_kwargs": {}},
    )


def test_a_task_takes_its_own_entry_and_others_the_default() -> None:
    cheetah = load_settings("ppo", "rlhf_gym/HalfCheetah-v0")
    assert cheetah.algorithm["policy_kwargs"]["activation_fn"] is nn.ReLU
    other = load_settings("ppo", "Swimmer-v5")
    assert other.algorithm["policy_kwargs"]["activation_fn"] is nn.Tanh
    assert other == load_settings("ppo", "Reacher-v5")


def test_overrides_replace_single_entries() -> None:
    settings = load_settings("ppo", "Swimmer-v5", {"n_envs": 3, "gamma": 0.5})
    assert settings.n_envs == 3 and settings.algorithm["gamma"] == 0.5


def test_the_mapping_reads_back_to_the_same_settings() -> None:
    for env_id in ("rlhf_gym/HalfCheetah-v0", "rlhf_gym/Reacher-v0", "Swimmer-v5"):
        settings = load_settings("ppo", env_id)
        text = yaml.safe_dump(settings.as_mapping())
        assert load_settings("ppo", env_id, yaml.safe_load(text)) == settings


def test_a_linear_decay_is_read_as_the_zoo_writes_it() -> None:
    settings = load_settings("ppo", "Any-v0", {"learning_rate": "lin_0.002"})
    rate = settings.algorithm["learning_rate"]
    assert [rate(left) for left in (1.0, 0.25, 0.0)] == [0.002, 0.0005, 0.0]
    text = yaml.safe_dump(settings.as_mapping())
    assert yaml.safe_load(text)["learning_rate"] == "lin_0.002"


@pytest.mark.parametrize("value", ["lin_", "lin_-1", "lin_nan", "0.1", "1e-3", "cos_0.1"])
def test_other_texts_are_no_schedules(value: str) -> None:
    with pytest.raises(ConfigError, match=r"`learning_rate: .*lin_0\.001"):
        load_settings("ppo", "Any-v0", {"learning_rate": value})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("n_envs", [0, True, 2.0]),
        ("n_steps", [0, -50, True, "8"]),
        ("batch_size", [0, None]),
        ("n_epochs", [0, "x"]),
        ("n_timesteps", ["1e6", 0, 0.5, float("nan"), float("inf")]),
        ("gamma", [2.0, -0.1, float("nan")]),
        ("gae_lambda", [1.01]),
        ("reward_scale", [-1, 0, float("nan"), float("inf"), True]),
        ("learning_rate", [-0.001, 0, None]),
        ("clip_range", [-1, "0.2"]),
        ("ent_coef", [-0.1]),
        ("max_grad_norm", [0]),
        ("center_rewards", [1, "yes", None]),
        ("restart_at", [0, 1, -0.5, 1.5, float("nan"), "half", True]),
        ("policy", [3, None]),
        ("normalize", ["yes", 1]),
        ("policy_kwargs", [[64, 64]]),
    ],
)
def test_a_value_that_means_nothing_is_refused_by_name(name: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=f"`{name}: .*accepted (is|are)"):
            load_settings("ppo", "Any-v0", {name: value})


def test_settings_made_in_python_are_checked_too() -> None:
    for change in ({"n_envs": 0}, {"n_envs": True}, {"n_timesteps": 0.5}):
        with pytest.raises(ConfigError, match="a whole number of at least 1"):
            dataclasses.replace(settings_of(8, 8, 1), **change)


def test_values_at_the_edge_are_taken() -> None:
    edge = {"gamma": 1, "gae_lambda": 0.0, "ent_coef": 0, "n_timesteps": 1e6, "restart_at": 0.5}
    settings = load_settings("ppo", "Any-v0", edge)
    assert settings.n_timesteps == 1_000_000 and settings.restart_at == 0.5


TABLE = (
    "default: {{n_envs: {n_envs}, n_timesteps: 5, normalize: {normalize}, policy: P, "
    "reward_scale: 1, n_steps: 8, batch_size: 8{rest}}}"
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("default: [1]", "no mapping"),
        ("default: {n_envs: 1}", "lacks"),
        (TABLE.format(n_envs=0, normalize="true", rest=""), "`n_envs: 0`"),
        (TABLE.format(n_envs=1, normalize="{norm_reward: true}", rest=""), "norm_reward: true"),
        (TABLE.format(n_envs=1, normalize="{norm_obz: false}", rest=""), "norm_obz: False.*within"),
        (TABLE.format(n_envs=1, normalize="{norm_obs: 'no'}", rest=""), "norm_obs: 'no'.*within"),
        (TABLE.format(n_envs=1, normalize="{clip_obs: 5}", rest=""), "clip_obs: 5.*within"),
        (
            TABLE.format(
                n_envs=1, normalize="true", rest=", policy_kwargs: {activation_fn: nn.ReLU}"
            ),
            "activation_fn",
        ),
        ("default: {a: [", "cannot read"),
        ("default: !!python/object/apply:os.getcwd []", "cannot read"),
    ],
)
def test_a_malformed_table_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "table.yml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_settings("ppo", "Any-v0", path=path)


@pytest.mark.parametrize(
    ("normalize", "obs"), [({}, True), ({"norm_obs": False, "norm_reward": False}, False)]
)
def test_the_zoo_s_mapping_says_whether_observations_are_normalised(normalize, obs) -> None:
    assert load_settings("ppo", "Any-v0", {"normalize": normalize}).normalize_obs is obs


# PointMass takes the default, HopperBackflip's are for episodes of 100 steps: its id has more.
_OTHERS = {"rlhf_gym/PointMass-v0", "rlhf_gym/HopperBackflip-v0"}


@pytest.mark.parametrize("task", sorted(set(TASK_IDS) - _OTHERS))
def test_a_task_s_own_settings_run_as_they_stand_in_the_table(task: str) -> None:
    env = make_env(task)
    horizon = space_info(env).horizon
    env.close()
    settings = load_settings("ppo", task)
    assert align(settings, horizon) == settings


@given(
    n_steps=st.integers(1, 600),
    batch_size=st.integers(1, 600),
    n_envs=st.integers(1, 9),
    horizon=st.one_of(st.none(), st.integers(1, 1200)),
)
def test_aligned_rollouts_fit_episodes_and_minibatches(n_steps, batch_size, n_envs, horizon):
    aligned = align(settings_of(n_steps, batch_size, n_envs), horizon)
    steps, batch = aligned.algorithm["n_steps"], aligned.algorithm["batch_size"]
    rollout = steps * n_envs
    wanted = min(batch_size, rollout)
    dividing = [size for size in range(wanted // 2 + 1, wanted + 1) if rollout % size == 0]
    assert batch == (max(dividing) if dividing else batch_size)
    fits = horizon is not None and (horizon % steps == 0 or steps % horizon == 0)
    possible = horizon is not None and any(
        horizon % n == 0 or n % horizon == 0 for n in range((n_steps + 1) // 2, 2 * n_steps + 1)
    )
    assert fits == possible or (steps == n_steps and not possible)
    assert align(aligned, horizon).algorithm["n_steps"] == steps, "aligning twice changes nothing"
    chosen = align(settings_of(n_steps, batch_size, n_envs), horizon, ("n_steps", "batch_size"))
    assert chosen.algorithm == settings_of(n_steps, batch_size, n_envs).algorithm


def test_a_unit_is_whole_rollouts_and_whole_episodes_where_they_fit() -> None:
    assert settings_of(n_steps=250).steps_unit(1000) == 8000  # four rollouts, one episode each
    assert settings_of(n_steps=250).steps_unit(50) == 2000  # one rollout, five episodes each
    assert settings_of(n_steps=256).steps_unit(1000) == 2048  # 125 rollouts would be too long
    assert settings_of(n_steps=256).steps_unit(None) == 2048


@pytest.mark.parametrize("task", ["Swimmer", "Reacher", "Hopper"])
@pytest.mark.parametrize("over", [{}, {"center_rewards": False, "restart_at": None}])
def test_a_resolved_mapping_leads_to_the_same_settings(task: str, over: dict[str, Any]) -> None:
    settings = load_settings("ppo", f"rlhf_gym/{task}-v0", over)
    again = load_settings("ppo", f"rlhf_gym/{task}-v0", settings.as_mapping())
    assert again.as_mapping() == settings.as_mapping()
    assert (again.center_rewards, again.restart_at) == (
        settings.center_rewards,
        settings.restart_at,
    )


def test_a_complete_mapping_of_earlier_versions_has_the_switches_off_that_it_leaves_out() -> None:
    mapping = load_settings("ppo", "rlhf_gym/Swimmer-v0").as_mapping()
    assert mapping.pop("center_rewards") is True and mapping.pop("restart_at") == 0.15
    settings = load_settings("ppo", "rlhf_gym/Swimmer-v0", mapping)
    assert (settings.center_rewards, settings.restart_at) == (False, None)
