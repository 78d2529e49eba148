from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlhf_gym.envs import TASK_IDS, TEXT_TASK_IDS
from rlhf_gym.envs.horizon import early_end_warning
from rlhf_gym.envs.make import env_table, is_text_env, make_env, space_info
from rlhf_gym.envs.preference_ready import SimStateInfo
from rlhf_gym.errors import ConfigError, MissingDependencyError, UnknownNameError


class Endless(gym.Env[Any, Any]):
    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)


def needs_a_simulator(**_: Any) -> gym.Env[Any, Any]:
    raise gym.error.DependencyNotInstalled("BrickSim is not installed, run `pip install bricksim`")


def moved_away(**_: Any) -> gym.Env[Any, Any]:
    raise ImportError("This environment has moved to gymnasium-robotics.")


@pytest.fixture(autouse=True)
def keep_registry() -> Iterator[None]:
    before = set(gym.registry)
    yield
    for env_id in set(gym.registry) - before:
        del gym.registry[env_id]


def write_module(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text)


def test_any_gymnasium_id_becomes_preference_ready() -> None:
    env = make_env("Swimmer-v5")
    assert isinstance(env, SimStateInfo)
    info = space_info(env)
    assert (info.env_id, info.horizon) == ("Swimmer-v5", 1000)
    assert info.observation_space == env.observation_space
    assert info.action_space == env.action_space


def test_an_env_without_a_simulator_state_is_made_all_the_same() -> None:
    env = make_env("Pendulum-v1")
    assert space_info(env).horizon == 200
    assert "rlhf_gym.sim_state" not in env.reset(seed=0)[1]


def test_a_shipped_task_is_not_wrapped_twice() -> None:
    assert str(make_env("rlhf_gym/PointMass-v0")) == str(gym.make("rlhf_gym/PointMass-v0"))


def test_arguments_reach_gymnasium_and_the_env() -> None:
    env = make_env(
        "rlhf_gym/PointMass-v0",
        render_mode="rgb_array",
        env_kwargs={"max_episode_steps": 7, "step_size": 0.5},
    )
    assert space_info(env).horizon == 7
    assert env.render_mode == "rgb_array"
    env.reset(seed=0)
    before = env.unwrapped.get_wrapper_attr("get_extra_state")()[:2]
    after = env.step(np.where(before > 0, -1, 1).astype(np.float32))[0][:2]
    np.testing.assert_allclose(np.abs(after - before), 0.5, atol=1e-6)


def test_a_module_is_imported_for_the_ids_that_it_registers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(
        tmp_path,
        "rooms_of_mine",
        "import gymnasium as gym\n"
        "gym.register('Mine-v0', 'rlhf_gym.envs.point_mass:PointMassEnv', max_episode_steps=5)\n",
    )
    monkeypatch.syspath_prepend(tmp_path)
    env = make_env("rooms_of_mine:Mine-v0")
    info = space_info(env)
    assert (info.env_id, info.horizon) == ("Mine-v0", 5)
    assert "rlhf_gym.sim_state" in env.reset(seed=0)[1]


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("PointMass-v0", "'rlhf_gym/PointMass-v0'"),
        ("rlhf_gym/pointmass-v0", "'rlhf_gym/PointMass-v0'"),
        ("HalfCheeta-v5", "'HalfCheetah-v5'"),
        ("HalfCheetah-v9", "'HalfCheetah-v5'"),
        ("HalfCheetah", "'HalfCheetah-v5'"),
        ("not an id!", "my_package.my_envs:MyRobot-v0"),
    ],
)
def test_an_unknown_id_is_refused_with_a_suggestion(wrong: str, meant: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        make_env(wrong)
    assert repr(wrong) in str(caught.value)
    assert meant in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_episode_steps": 0}, "`max_episode_steps` is 0"),
        ({"max_episode_steps": "20"}, "`max_episode_steps` is '20'"),
        ({"max_episode_steps": True}, "`max_episode_steps` is True"),
        ({"obs_keys": "pos"}, "`obs_keys` is 'pos'"),
        ({"obs_keys": [1]}, r"`obs_keys` is \[1\]"),
    ],
)
def test_arguments_that_gymnasium_would_trip_over_are_refused(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_env("rlhf_gym/PointMass-v0", env_kwargs=arguments)


def test_nothing_is_suggested_where_nothing_is_close() -> None:
    with pytest.raises(UnknownNameError) as caught:
        make_env("zzzzqqqq-v0")
    assert "Did you mean" not in str(caught.value)


def test_a_module_that_registers_no_such_id_is_named_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed namesake is found before the caller's own."""
    write_module(tmp_path, "namesake_of_mine", "")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownNameError, match=f"though {tmp_path}.*was imported as 'namesake_of"):
        make_env("namesake_of_mine:Mine-v0")


def test_a_missing_module_is_named_with_how_to_import_it() -> None:
    with pytest.raises(MissingDependencyError) as caught:
        make_env("no_such_pkg_of_mine.envs:X-v0")
    message = str(caught.value)
    assert "'no_such_pkg_of_mine'" in message
    assert "run from its folder" in message
    assert "pip install -e ." in message


def test_a_missing_known_package_is_named_as_pip_knows_it() -> None:
    with pytest.raises(MissingDependencyError, match=r"pip install ale-py"):
        make_env("ale_py:ALE/NoSuchGame-v5")


def test_a_module_whose_own_import_fails_names_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, "lacks_something", "import bricksim_engine.core\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError) as caught:
        make_env("lacks_something:X-v0")
    assert "needs the package 'bricksim_engine'" in str(caught.value)
    assert "pip install bricksim_engine" in str(caught.value)


def test_an_error_in_the_users_module_is_shown_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, "divides_by_zero", "1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError):
        make_env("divides_by_zero:X-v0")


@pytest.mark.parametrize(
    ("entry_point", "advice"),
    [
        (needs_a_simulator, "pip install bricksim"),
        (moved_away, "has moved to gymnasium-robotics"),
        ("bricksim_engine.envs:Env", "pip install bricksim_engine"),
    ],
)
def test_an_env_without_its_simulator_says_what_to_install(entry_point: Any, advice: str) -> None:
    gym.register("Bricks-v0", entry_point, max_episode_steps=5)
    with pytest.raises(MissingDependencyError) as caught:
        make_env("Bricks-v0")
    assert "Bricks-v0" in str(caught.value)
    assert advice in str(caught.value)


def test_an_env_without_a_horizon_is_refused() -> None:
    gym.register("Endless-v0", lambda **_: Endless())
    with pytest.raises(ConfigError, match="max_episode_steps"):
        make_env("Endless-v0")


def test_an_argument_that_the_env_does_not_take_is_named() -> None:
    with pytest.raises(ConfigError, match="gravity"):
        make_env("rlhf_gym/PointMass-v0", env_kwargs={"gravity": 9.81})


def test_other_type_errors_of_an_env_are_not_disguised() -> None:
    def broken(**_: Any) -> gym.Env[Any, Any]:
        raise TypeError("unsupported operand")

    gym.register("Broken-v0", broken, max_episode_steps=5)
    with pytest.raises(TypeError, match="unsupported operand"):
        make_env("Broken-v0")


def test_space_info_of_an_env_made_by_hand_uses_its_class_name() -> None:
    info = space_info(Endless())
    assert (info.env_id, info.horizon) == ("Endless", None)


def test_the_warning_of_early_ends_names_the_env_and_every_switch() -> None:
    text = early_end_warning("Hopper-v5")
    assert "Hopper-v5" in text
    assert "--allow-variable-horizon" in text
    assert "allow_variable_horizon: true" in text and "allow_variable_horizon=True" in text


def test_the_table_has_one_line_for_each_of_our_ids_only() -> None:
    rows = env_table()
    assert [row[0] for row in rows] == sorted(TASK_IDS + TEXT_TASK_IDS)
    lines = dict(rows)
    assert lines["rlhf_gym/HalfCheetah-v0"].startswith("A two-legged planar robot")
    assert lines["rlhf_gym/HopperBackflip-v0"].startswith("A robot with one leg turns backflips")
    assert lines["rlhf_gym/PointMass-v0"].startswith("A point in a square arena")
    assert all(line.endswith(".") and "\n" not in line for _, line in rows)


def test_the_table_includes_an_id_registered_later_in_our_namespace() -> None:
    gym.register("rlhf_gym/Another-v0", "rlhf_gym.envs.point_mass:PointMassEnv")
    assert "rlhf_gym/Another-v0" in dict(env_table())


def test_a_horizon_replaces_the_envs_own_or_gives_it_one() -> None:
    gym.register("Endless-v0", lambda **_: Endless())
    for env_id in ("Endless-v0", "Pendulum-v1"):
        env = make_env(env_id, env_kwargs={"max_episode_steps": 300})
        assert space_info(env).horizon == 300


def test_a_horizon_beyond_a_time_limit_inside_of_the_env_is_refused() -> None:
    gym.register("Inside-v0", lambda **_: gym.wrappers.TimeLimit(Endless(), 20))
    assert space_info(make_env("Inside-v0", env_kwargs={"max_episode_steps": 10})).horizon == 10
    with pytest.raises(ConfigError, match="after 20 by a time limit inside"):
        make_env("Inside-v0", env_kwargs={"max_episode_steps": 30})


def test_keys_are_chosen_through_the_arguments_and_do_not_reach_the_constructor() -> None:
    class Named(Endless):
        observation_space = gym.spaces.Dict(  # type: ignore[assignment]
            {"a": gym.spaces.Box(0, 1, (2,)), "b": gym.spaces.Box(0, 1, (3,))}
        )

    gym.register("Named-v0", Named, max_episode_steps=5)
    kwargs = {"obs_keys": ["b"]}
    assert make_env("Named-v0", env_kwargs=kwargs).observation_space.shape == (3,)
    assert make_env("Named-v0").observation_space.shape == (5,)
    assert kwargs == {"obs_keys": ["b"]}


class Pictures(Endless):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode


@pytest.mark.parametrize("mode", ["human", "rgb_array"])
def test_an_env_that_cannot_be_drawn_says_that_only_watch_needs_it(mode: str) -> None:
    class Claims(Endless):
        metadata = {"render_modes": ["human", "rgb_array"]}  # noqa: RUF012

    # No modes; modes but no argument; a function, whose modes nobody knows before.
    for i, creator in enumerate((Endless, Claims, lambda: Endless())):
        gym.register(f"Dark{i}-v0", creator, max_episode_steps=5)
        assert space_info(make_env(f"Dark{i}-v0")).horizon == 5, "it trains"
        with pytest.raises(ConfigError, match="only `watch` needs a renderer"):
            make_env(f"Dark{i}-v0", render_mode=mode)


def test_a_render_mode_that_the_env_has_is_taken() -> None:
    gym.register("Pictures-v0", Pictures, max_episode_steps=5)
    assert make_env("Pictures-v0", render_mode="rgb_array").render_mode == "rgb_array"
    with pytest.warns(UserWarning, match="HumanRendering"):  # Gymnasium's window for pictures
        assert make_env("Pictures-v0", render_mode="human").render_mode == "human"


def test_a_window_for_pictures_without_a_rate_is_refused_naming_the_video() -> None:
    class Timeless(Pictures):
        metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    gym.register("Timeless-v0", Timeless, max_episode_steps=5)
    assert make_env("Timeless-v0", render_mode="rgb_array").render_mode == "rgb_array"
    with pytest.raises(ConfigError, match=r"no `render_fps`.*watch --video"):
        make_env("Timeless-v0", render_mode="human")


def test_a_text_task_is_known_by_its_class_and_not_by_the_name_of_it() -> None:
    env: Any = Endless()
    assert not is_text_env(env)
    for env_id in TEXT_TASK_IDS:
        assert is_text_env(gym.make(env_id))
    env.task = type("TextTask", (), {})()  # somebody else's
    assert not is_text_env(env)
