"""What to judge by: one page per shipped task, shown to whoever labels its clips.

Ordered criteria, a tie-breaker, what to ignore, and when to say what, in the form of the
instructions of Christiano et al. (2017, appendix B). They name only what can be seen in a clip of
two seconds or read in a text, and what the task's own reward pays for, so that people and the true
reward agree.
"""

from __future__ import annotations

import re
from importlib.resources import files

from rlhf_gym.envs import TASK_IDS, TEXT_TASK_IDS

__all__ = ["rubric_for"]


def rubric_for(env_id: str) -> str | None:
    """The page for a shipped task.

    Args:
        env_id: A Gymnasium id, with or without namespace and version: "rlhf_gym/HalfCheetah-v0",
            "HalfCheetah". A module in front of it ("my_envs:Mine-v0"), or another namespace, names
            an env of somebody else's, whose task may be another one.

    Returns:
        Markdown of at most 25 lines, or None for an env that is not shipped.
    """
    name = re.sub(r"-v\d+$", "", env_id.removeprefix("rlhf_gym:").removeprefix("rlhf_gym/"))
    if f"rlhf_gym/{name}-v0" not in (*TASK_IDS, *TEXT_TASK_IDS):
        return None
    page = files("rlhf_gym.envs").joinpath("rubrics", f"{_snake_case(name)}.md")
    return page.read_text(encoding="utf-8")


def _snake_case(name: str) -> str:
    """HalfCheetah as half_cheetah, Walker2d as walker2d: the names of the tasks' modules."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
