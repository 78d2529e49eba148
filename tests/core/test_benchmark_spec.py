from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_gym.benchmark.spec import BenchmarkSpec, load_spec, named, task_slug
from rlhf_gym.errors import ConfigError, CorruptDataError
from rlhf_gym.feedback.teachers import make_teacher

TEXT = """
name: small
tasks: {rlhf_gym/PointMass-v0: {steps: 4000, hyperparameters: {n_steps: 100, n_envs: 4}}}
settings:
  true: {reward: true}
  stock: {runner: stock}
  learned-70: {labels: 70, hyperparameters: {n_envs: 2}}
  100: {labels: 100}
seeds: [3, 4]
reference: [true, stock]
headline: [rlhf_gym/PointMass-v0]
workers: 2
"""


def written(folder: Path, text: str = TEXT) -> Path:
    path = folder / "small.yml"
    path.write_text(text)
    return path


def make_spec(**changes: Any) -> BenchmarkSpec:
    entries: dict[str, Any] = {
        "name": "small",
        "tasks": {"rlhf_gym/PointMass-v0": {}},
        "settings": {"true": {"reward": "true"}, "learned": {"labels": 70}},
        "seeds": (0, 1),
    }
    return BenchmarkSpec(**{**entries, **changes})


def test_a_file_is_read_and_yamls_booleans_become_the_names_they_were(tmp_path: Path) -> None:
    spec = load_spec(written(tmp_path))
    assert list(spec.settings) == ["true", "stock", "learned-70", "100"]
    assert spec.reference == ("true", "stock")
    assert spec.settings["true"] == {"reward": "true"}
    assert (spec.seeds, spec.workers) == ((3, 4), 2)
    assert [spec.runner(name) for name in spec.settings] == ["train", "stock", "train", "train"]


def test_names_are_as_they_were_written_not_as_yaml_reads_them(tmp_path: Path) -> None:
    text = "tasks: [A-v0]\nsettings: {0700: , yes: {reward: yes}, ~: }\nseeds: [0]\n"
    with pytest.raises(ConfigError, match="'~' is part of a file's name"):
        load_spec(written(tmp_path, text))
    text = text.replace("yes: {reward: yes}, ~: ", "yes: {reward: on}") + "reference: [yes]\n"
    spec = load_spec(written(tmp_path, text))
    assert (list(spec.settings), spec.reference) == (["0700", "yes"], ("yes",))
    assert spec.settings["yes"] == {"reward": "true"}
    both = text.replace("{0700: ,", "{true: {reward: true},").replace("[yes]", "[yes, true]")
    assert load_spec(written(tmp_path, both)).reference == ("yes", "true"), "two names, one value"


def test_a_setting_may_be_built_on_another(tmp_path: Path) -> None:
    text = "tasks: [A-v0]\nsettings: {a: &a {labels: 70}, b: {<<: *a, rounds: 3}}\nseeds: [0]\n"
    assert load_spec(written(tmp_path, text)).settings["b"] == {"labels": 70, "rounds": 3}


def test_a_plain_list_of_tasks_and_a_file_without_a_name_will_do(tmp_path: Path) -> None:
    text = "tasks: [a/B-v0, C-v1]\nsettings: {x: }\nseeds: [0]\n"
    spec = load_spec(written(tmp_path, text))
    assert spec.name == "small"
    assert spec.tasks == {"a/B-v0": {}, "C-v1": {}}
    assert spec.settings == {"x": {}}


def test_a_settings_options_win_and_nested_ones_are_merged(tmp_path: Path) -> None:
    spec = load_spec(written(tmp_path))
    config = spec.config("rlhf_gym/PointMass-v0", "learned-70", 4)
    assert (config.env, config.seed) == ("rlhf_gym/PointMass-v0", 4)
    assert (config.steps, config.labels) == (4000, 70)
    assert config.hyperparameters == {"n_steps": 100, "n_envs": 2}
    assert spec.config("rlhf_gym/PointMass-v0", "stock", 3).reward == "true"
    assert spec.tasks["rlhf_gym/PointMass-v0"]["hyperparameters"]["n_envs"] == 4, "not altered"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds:", "seed:", r"small\.yml: unknown option `seed`\. Did you mean `seeds`"),
        ("steps: 4000", "stepz: 4000", r"tasks: rlhf_gym/PointMass-v0.*stepz.*mean `steps`"),
        ("{labels: 70,", "{lables: 70,", "settings: learned-70.*lables.*mean `labels`"),
        ("runner: stock", "runer: stock", "settings: stock.*runer.*mean `runner`"),
        ("runner: stock", "runner: sb3", "`runner` is 'sb3'; accepted are train and stock"),
        ("runner: stock", "runner: stock, reward: learned", "stock.*`reward` is 'learned'"),
        ("runner: stock", "runner: stock, algo: sac", "stock.*`algo` is 'sac'"),
        ("runner: stock", "runner: stock, labels: 3, teacher: skip", "not use `labels`, `teac"),
        ("{labels: 70,", "{labels: -1,", "task rlhf_gym/PointMass-v0, setting learned-70.*-1"),
        ("{labels: 70,", "{labels: many,", "setting learned-70.*'many'"),
        ("{labels: 70,", "{ensemble: {hiden: [4]},", "setting learned-70.*hiden.*`hidden`"),
        ("{labels: 70,", "{seed: 1,", "settings: learned-70: `seed` cannot.*`seeds`"),
        ("{labels: 70,", "{env: X-v0,", "settings: learned-70: `env` cannot.*`tasks`"),
        ("[3, 4]", "[3, 4, 3]", r"`seeds` is \[3, 4, 3\] and repeats 3"),
        ("[3, 4]", "[3, -4]", "`seeds` holds -4"),
        ("[3, 4]", "[]", "`seeds` is empty"),
        ("[3, 4]", "7", "seeds is 7; accepted is a list, each entry a whole number"),
        ("[3, 4]", "[3, x]", "seeds is 'x'; accepted is a whole number"),
        ("[true, stock]", "[true, stok]", "`reference` names 'stok'.*Did you mean `stock`"),
        ("[true, stock]", "[true, true]", "`reference`.*repeats true"),
        ("[true, stock]", "true", "reference is True; accepted is a list, each entry text"),
        ("[true, stock]", "[[true]]", r"reference is \[True\]; accepted is text"),
        ("{labels: 70,", "{700: x,", "settings: learned-70` holds 700, which is no name"),
        ("headline: [rlhf_gym/P", "headline: [P", "`headline` names 'PointMass-v0'"),
        ("workers: 2", "workers: 0", "`workers` is 0"),
        ("name: small", "name: a/b", "'a/b' is part of a file's name"),
        ("  100: {labels", "  a/b: {labels", "'a/b' is part of a file's name"),
        ("stock: {runner: stock}", "stock: 3", "stock must be a mapping.*found 3"),
        ("  100: {labels", "  stock: {labels", "key 'stock' is there twice"),
        ("{labels: 70,", "{labels: 70, labels: 80,", "key 'labels' is there twice"),
        ("{labels: 70,", "{horizon: 25,", "learned-70 makes another env.*25.*than true"),
        ("{labels: 70,", "{env_kwargs: {goal: 1},", "learned-70 makes another env.*goal"),
        ("{labels: 70,", "{teacher: human,", "setting learned-70: `teacher` is human"),
        ("[true, stock]", "[stock, 100]", "`reference` names 100, whose `reward`.*'learned'"),
        ("  100: {labels", "  'true': {labels", "the key 'true' is there twice"),
        ("[3, 4]", "[3, 9223372036854775808]", r"`seeds` holds 9223372036854775808.*2\*\*63"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError, match=message):
        load_spec(written(tmp_path, TEXT.replace(old, new)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: []\nsettings: {x: {}}\nseeds: [0]\n", "`tasks` is empty"),
        ("settings: {x: {}}\nseeds: [0]\n", "`tasks` is empty"),
        ("tasks: [A-v0]\nsettings: {}\nseeds: [0]\n", "`settings` is empty"),
        ("tasks: [A-v0]\nsettings: {x: {}}\n", "`seeds` is empty"),
        ("tasks: [A-v0, A-v0]\nsettings: {x: {}}\nseeds: [0]\n", "repeats A-v0"),
        ("tasks: A-v0\nsettings: {x: {}}\nseeds: [0]\n", "`tasks` is 'A-v0'; accepted is a list"),
        ("tasks: [A-v0, b/A-v2]\nsettings: {x: {}}\nseeds: [0]\n", "the same name, 'a'"),
        ("tasks:\n- A-v0: {}\nsettings: {x: {}}\nseeds: [0]\n", "holds {'A-v0': {}}"),
        ("[1, 2]\n", "must hold a mapping"),
        ("a: [\n", "not valid YAML"),
    ],
)
def test_empty_or_repeated_entries_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_spec(written(tmp_path, text))


def test_settings_may_differ_in_the_env_where_nothing_is_compared(tmp_path: Path) -> None:
    other = TEXT.replace("{labels: 70,", "{horizon: 25,").replace("[true, stock]", "[]")
    assert load_spec(written(tmp_path, other)).reference == ()
    seen = TEXT.replace("{labels: 70,", "{obs_keys: [position],")
    assert load_spec(written(tmp_path, seen)).reference == ("true", "stock")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yml"):
        load_spec(tmp_path / "none.yml")


def test_a_spec_made_in_python_is_checked_the_same_way() -> None:
    assert make_spec().config("rlhf_gym/PointMass-v0", "learned", 1).labels == 70
    with pytest.raises(ConfigError, match="`seeds` holds True"):
        make_spec(seeds=(True,))
    plain = make_spec(
        tasks=["A-v0"], settings={"x": None}, seeds=np.arange(2), reference=[], headline=["A-v0"]
    )
    assert plain == make_spec(
        tasks={"A-v0": {}}, settings={"x": {}}, seeds=(0, 1), headline=("A-v0",)
    )
    assert make_spec(seeds=range(2)) == make_spec()
    assert make_spec(tasks=(t for t in ["A-v0"])).tasks == {"A-v0": {}}
    assert json.dumps(plain.seeds) == "[0, 1]", "as the results hold them"
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_spec().name = "other"  # type: ignore[misc]  # that it is refused is the test


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "true"}, "`reference` is 'true'; accepted is a list"),
        ({"seeds": 3}, "`seeds` is 3; accepted is a list"),
        ({"seeds": (0.0,)}, r"`seeds` holds 0\.0"),
        ({"tasks": "A-v0"}, "`tasks` is 'A-v0'; accepted is a list of env ids"),
        ({"tasks": [3]}, "`tasks` holds 3, which is no name"),
        ({"name": 3}, "`name` holds 3, which is no name"),
        ({"reference": [True]}, "`reference` holds True, which is no name"),
        ({"headline": (3,)}, "`headline` holds 3, which is no name"),
        ({"settings": ["a"]}, r"`settings` is \['a'\]; accepted is a mapping"),
        ({"settings": {"a": {7: 1}}}, "`settings: a` holds 7, which is no name"),
        ({"settings": {7: {}}}, "`settings` holds 7, which is no name"),
        ({"workers": 1.5}, r"`workers` is 1\.5"),
    ],
)
def test_what_python_would_read_otherwise_than_meant_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_spec(**changes)


def test_the_shipped_specifications_are_read(repository: Path) -> None:
    specs = {p.stem: load_spec(p) for p in (repository / "benchmarks" / "specs").glob("*.yml")}
    assert {"label_efficiency", "teachers", "smoke"} <= set(specs)
    efficiency = specs["label_efficiency"]
    assert efficiency.seeds == (10, 11, 12, 13, 14)
    labels = [efficiency.config(t, s, 10).labels for t in efficiency.headline
              for s in efficiency.settings if s.startswith("learned")]  # fmt: skip
    assert labels == [100, 350, 700, 1400] * 4
    teachers = {specs["teachers"].config("rlhf_gym/Hopper-v0", s, 10).teacher: s
                for s in specs["teachers"].settings if s not in ("true", "stock")}  # fmt: skip
    # The oracle is the default teacher, so that label efficiency's records serve there too.
    assert len(teachers) == 6 and teachers.pop("synthetic") == "oracle"
    # `mistake` by its only setting, so that the records of wrong answers serve there too.
    assert make_teacher("eps_mistake=0.1", 3) == make_teacher("mistake", 3)
    assert teachers.pop("eps_mistake=0.1") == "mistake" and len(teachers) == 4
    assert all(teacher == s for teacher, s in teachers.items())


def test_the_guides_specification_is_read(repository: Path, tmp_path: Path) -> None:
    guide = (repository / "docs" / "benchmark-command.md").read_text()
    spec = load_spec(written(tmp_path, guide.partition("```yaml\n")[2].partition("```")[0]))
    assert spec.config("rlhf_gym/Hopper-v0", "small-net", 10).ensemble.hidden == (32, 32)
    assert spec.config("rlhf_gym/Hopper-v0", "true", 10).steps == 200_000


@pytest.mark.parametrize(
    ("env_id", "expected"),
    [
        ("rlhf_gym/HalfCheetah-v0", "halfcheetah"),
        ("Swimmer-v5", "swimmer"),
        ("my.envs:Robot-Arm-v12", "robot-arm"),
    ],
)
def test_a_task_has_a_short_name(env_id: str, expected: str) -> None:
    assert task_slug(env_id) == expected


def test_an_error_is_given_its_place_and_keeps_its_class() -> None:
    with pytest.raises(CorruptDataError, match=r"^here: broken$"), named("here"):
        raise CorruptDataError("broken")
    with pytest.raises(KeyError, match="ours"), named("here"):
        raise KeyError("ours")
