"""The pages that labellers judge by."""

from __future__ import annotations

from importlib.resources import files

import pytest

from rlhf_gym.envs import TASK_IDS, TEXT_TASK_IDS
from rlhf_gym.envs.rubrics import rubric_for

SHIPPED = (*TASK_IDS, *TEXT_TASK_IDS)


@pytest.mark.parametrize("env_id", SHIPPED)
def test_every_shipped_task_has_a_page_with_all_its_parts(env_id: str) -> None:
    page = rubric_for(env_id)
    assert page is not None
    lines = page.splitlines()
    assert len(lines) <= 25 and max(map(len, lines)) <= 130
    name = env_id.removeprefix("rlhf_gym/").removesuffix("-v0")
    assert lines[0] == f"# {name}"
    places = [
        page.index(part)
        for part in (
            "**Task:**", "\n1. **", "\n2. ", "**If still equal:**", "**Ignore:**", "**Tie** ",
            "**Can't tell** ",
        )
    ]  # fmt: skip
    assert places == sorted(places)


def test_every_page_belongs_to_a_task() -> None:
    pages = [file.name for file in files("rlhf_gym.envs").joinpath("rubrics").iterdir()]
    assert len(pages) == len(SHIPPED) == len({rubric_for(env_id) for env_id in SHIPPED})
    assert all(name.endswith(".md") for name in pages)


@pytest.mark.parametrize(
    "env_id",
    [
        "rlhf_gym/HalfCheetah-v0",
        "HalfCheetah-v0",
        "HalfCheetah",
        "rlhf_gym:rlhf_gym/HalfCheetah-v7",
    ],
)
def test_namespace_and_version_do_not_matter(env_id: str) -> None:
    page = rubric_for(env_id)
    assert page is not None and page.startswith("# HalfCheetah\n")


@pytest.mark.parametrize(
    "env_id",
    ["", "MyRobot-v0", "my_pkg.envs:HalfCheetah-v0", "other/HalfCheetah-v0", "half_cheetah",
     "../Ant-v0", "Ant/../Hopper"],
)  # fmt: skip
def test_an_env_of_somebody_else_has_no_page(env_id: str) -> None:
    assert rubric_for(env_id) is None
