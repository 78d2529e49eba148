from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlhf_gym.data import Array, Choice, Clip, Preference, Query, RewardBatch, Trajectory
from rlhf_gym.errors import DataError

MakeClip = Callable[..., Clip]


def episode(n_steps: int = 4, **changes: Any) -> dict[str, Any]:
    """Valid arrays of an episode; obs counts 0, 1, 2, ... so that windows are recognisable."""
    arrays = {
        "obs": np.arange(2 * (n_steps + 1), dtype=np.float32).reshape(n_steps + 1, 2),
        "actions": np.arange(n_steps, dtype=np.float32)[:, None],
        "true_rewards": 2.0 ** np.arange(n_steps, dtype=np.float32),
        "sim_states": np.arange(n_steps + 1, dtype=np.float64)[:, None],
        "context_id": "Test-v0",
    }
    return {**arrays, **changes}


def trajectory(n_steps: int = 4, **changes: Any) -> Trajectory:
    return Trajectory(**episode(n_steps, **changes), terminated=False, truncated=True)


def with_bad(name: str, value: float, n_steps: int = 4) -> Array:
    array = episode(n_steps)[name].copy()
    array.flat[-1] = value
    return array


# -- steps ----------------------------------------------------------------------------------------

BROKEN = [
    ({"actions": np.zeros((0, 1)), "obs": np.zeros((1, 2))}, "actions` is empty; at least one"),
    ({"obs": np.zeros((4, 2))}, "obs` has 4 entries, expected 5 (one more than actions)"),
    ({"obs": with_bad("obs", np.nan)}, "obs` must be finite, found nan at index (4, 1)"),
    (
        {"actions": with_bad("actions", np.inf)},
        "actions` must be finite, found inf at index (3, 0)",
    ),
    ({"true_rewards": np.zeros((4, 1))}, "true_rewards` has shape (4, 1), expected (4,)"),
    ({"true_rewards": np.zeros(5)}, "true_rewards` has 5 entries, expected 4 (one per action)"),
    (
        {"true_rewards": with_bad("true_rewards", -np.inf)},
        "true_rewards` must be finite, found -inf at index (3,)",
    ),
    ({"sim_states": np.zeros((4, 1))}, "sim_states` has 4 entries, expected 5"),
]


@pytest.mark.parametrize("owner", ["Trajectory", "Clip"])
@pytest.mark.parametrize(("changes", "message"), BROKEN)
def test_steps_that_do_not_fit_are_refused_with_the_numbers(
    owner: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=re.escape(f"`{owner}.{message}")):
        if owner == "Clip":
            Clip(**episode(**changes))
        else:
            trajectory(**changes)


def test_integers_and_unknown_rewards_are_welcome() -> None:
    tokens = episode(obs=np.zeros((5, 2), np.int64), actions=np.zeros(4, np.int64))
    tokens |= {"true_rewards": None, "sim_states": None}
    clip = Clip(**tokens)
    assert len(clip) == 4
    assert np.isnan(clip.true_return)
    assert np.isnan(trajectory(true_rewards=None).true_return)


def test_the_true_return_is_the_plain_sum() -> None:
    assert trajectory().true_return == 1 + 2 + 4 + 8
    assert trajectory().clip(1, 2).true_return == 2 + 4


def test_the_nouns_are_frozen(make_clip: MakeClip) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_clip().obs = np.zeros(3)  # type: ignore[misc]  # that is the point


# -- cutting --------------------------------------------------------------------------------------


def test_a_clip_holds_its_window_and_one_observation_more() -> None:
    clip = trajectory().clip(1, 2)
    np.testing.assert_array_equal(clip.obs, [[2, 3], [4, 5], [6, 7]])
    np.testing.assert_array_equal(clip.actions, [[1], [2]])
    np.testing.assert_array_equal(clip.true_rewards, [2, 4])
    np.testing.assert_array_equal(clip.sim_states, [[1], [2], [3]])
    assert clip.context_id == "Test-v0"
    assert trajectory(true_rewards=None, sim_states=None).clip(0, 4).sim_states is None


def test_a_clip_does_not_keep_its_episode_alive() -> None:
    clip = trajectory().clip(1, 2)
    assert all(a is not None and a.base is None for a in (clip.obs, clip.actions, clip.sim_states))


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 0), (0, 5), (3, 2), (4, 1)])
def test_a_window_that_leaves_the_episode_is_refused(start: int, length: int) -> None:
    with pytest.raises(DataError, match=r"do not lie within an episode of 4 steps; lower `clip_l"):
        trajectory().clip(start, length)


# -- identity -------------------------------------------------------------------------------------


def test_equal_content_is_one_clip() -> None:
    a, b = Clip(**episode()), Clip(**episode(true_rewards=None, sim_states=None))
    assert a == b
    assert len({a, b}) == 1
    assert a != "a clip"


@pytest.mark.parametrize(
    "changes",
    [
        {"context_id": "Test-v1"},
        {"obs": episode()["obs"] + 1},
        {"actions": episode()["actions"] + 1},
        {"obs": episode()["obs"].astype(np.float64)},
        {"obs": episode()["obs"].view(np.int32)},
        {"obs": episode()["obs"].reshape(5, 2, 1)},
        {"obs": episode()["obs"].astype(">f4")},
    ],
)
def test_any_difference_in_what_is_compared_is_another_clip(changes: dict[str, Any]) -> None:
    assert Clip(**episode(**changes)).id != Clip(**episode()).id


def test_the_memory_layout_does_not_matter() -> None:
    fortran = np.asfortranarray(episode()["obs"])
    assert Clip(**episode(obs=fortran)).id == Clip(**episode()).id


IDS = """
import json
import numpy as np
from rlhf_gym.data import Clip, Query
obs = np.arange(10, dtype=np.float32).reshape(5, 2)
actions = np.arange(4, dtype=np.float32)[:, None]
a, b = Clip(obs, actions, "Test-v0"), Clip(obs + 1, actions, "Test-v0")
print(json.dumps([a.id, Query((a, b), seed=1, round=2, index=3).id]))
"""


def test_ids_are_the_same_in_every_process() -> None:
    a, b = Clip(**episode()), Clip(**episode(obs=episode()["obs"] + 1))
    expected = [a.id, Query((a, b), seed=1, round=2, index=3).id]
    for hash_seed in ("0", "1"):
        output = subprocess.run(
            [sys.executable, "-c", IDS],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        assert json.loads(output) == expected


def test_a_clip_from_storage_is_the_clip_that_was_stored(make_clip: MakeClip) -> None:
    clip = make_clip(state_dim=3)
    arrays = {name: getattr(clip, name) for name in ("obs", "actions", "true_rewards")}
    again = Clip.from_storage(clip.id, context_id=clip.context_id, **arrays)
    assert again == clip
    assert again.sim_states is None
    assert len(again) == len(clip)
    assert again.true_return == clip.true_return
    assert Clip(again.obs, again.actions, again.context_id).id == again.id


# -- queries and answers --------------------------------------------------------------------------


def test_a_query_asks_about_its_clips_in_order(make_clip: MakeClip) -> None:
    a, b = make_clip(), make_clip()
    query = Query((a, b), seed=0, round=0, index=0)
    assert (query.first, query.second, query.context_id) == (a, b, "Test-v0")


def test_a_query_needs_distinct_clips_of_one_context(make_clip: MakeClip) -> None:
    a, b = make_clip(), make_clip(context_id="Other-v0")
    with pytest.raises(DataError, match=r"holds 1 clip\(s\), at least 2"):
        Query((a,), 0, 0, 0)
    with pytest.raises(DataError, match=r"contexts \['Other-v0', 'Test-v0'\]"):
        Query((a, b), 0, 0, 0)
    with pytest.raises(DataError, match="same clip twice"):
        Query((a, Clip(a.obs.copy(), a.actions.copy(), a.context_id)), 0, 0, 0)


def test_a_query_id_depends_on_everything_that_was_asked(make_clip: MakeClip) -> None:
    a, b, c = make_clip(), make_clip(), make_clip()
    settings = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 11, 1), (11, 1, 1)]
    ids = [Query((a, b), *s).id for s in settings]
    ids += [Query(clips, 0, 0, 0).id for clips in ((b, a), (a, c), (a, b, c))]
    assert len(set(ids)) == len(ids)
    assert Query((a, b), 0, 0, 0).id == ids[0]


def test_a_query_from_storage_is_the_query_that_was_stored(make_clip: MakeClip) -> None:
    query = Query((make_clip(), make_clip()), seed=1, round=2, index=3)
    again = Query.from_storage(query.id, clips=query.clips, seed=1, round=2, index=3)
    assert again.id == query.id
    assert Query(again.clips, again.seed, again.round, again.index).id == query.id


def test_a_tie_is_half_and_cannot_tell_is_nothing(make_clip: MakeClip) -> None:
    expected = {Choice.FIRST: 1.0, Choice.SECOND: 0.0, Choice.TIE: 0.5, Choice.SKIP: None}
    assert {choice: choice.preference_prob for choice in Choice} == expected
    query = Query((make_clip(), make_clip()), 0, 0, 0)
    found = {c: Preference(query, c, "synthetic").preference_prob for c in Choice}
    assert found == expected


def test_an_answer_before_its_question_is_refused(make_clip: MakeClip) -> None:
    query = Query((make_clip(), make_clip()), 0, 0, 0)
    with pytest.raises(DataError, match=r"answered_at` \(1.0\) lies before `shown_at` \(2.0\)"):
        Preference(query, Choice.FIRST, "human", shown_at=2.0, answered_at=1.0)
    Preference(query, Choice.FIRST, "human", shown_at=2.0, answered_at=2.0)


# -- reward batches -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["obs", "actions", "next_obs", "mask"])
def test_a_batch_whose_axes_disagree_is_refused(name: str) -> None:
    arrays: dict[str, Array] = {n: np.zeros((2, 3, 4)) for n in ("obs", "actions", "next_obs")}
    arrays["mask"] = np.ones((2, 3), dtype=bool)
    RewardBatch(**arrays)
    arrays[name] = arrays[name][:, :2] if name != "mask" else arrays[name][0]
    with pytest.raises(DataError, match=r"shape .* but the mask is"):
        RewardBatch(**arrays)


def test_a_batch_has_no_field_for_a_true_reward() -> None:
    names = {field.name for field in dataclasses.fields(RewardBatch)}
    assert names == {"obs", "actions", "next_obs", "mask"}


def test_complete_rows_are_not_masked() -> None:
    batch = RewardBatch.from_steps(np.zeros((2, 3, 4)), np.zeros((2, 3)), np.zeros((2, 3, 4)))
    assert batch.mask.shape == (2, 3)
    assert batch.mask.all()


def numbers(*shape: int) -> st.SearchStrategy[Array]:
    return hnp.arrays(np.float32, shape, elements=st.floats(1, 2, width=32))


@st.composite
def clips_of_one_env(draw: st.DrawFn) -> list[Clip]:
    """1 to 4 clips of 1 to 5 steps; no number is 0, so that padding can be told from content."""
    obs_shape = draw(st.sampled_from([(), (2,), (2, 3)]))
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    return [
        Clip(obs=draw(numbers(n + 1, *obs_shape)), actions=draw(numbers(n, 2)), context_id="x")
        for n in lengths
    ]


@given(clips_of_one_env())
def test_clips_are_stacked_and_padded_with_masked_zeros(clips: list[Clip]) -> None:
    batch = RewardBatch.from_clips(clips)
    longest = max(len(clip) for clip in clips)
    assert batch.mask.shape == (len(clips), longest)
    assert batch.obs.shape == batch.next_obs.shape
    for row, clip in enumerate(clips):
        for step in range(longest):
            inside = step < len(clip)
            assert bool(batch.mask[row, step]) is inside
            expected = (clip.obs[step], clip.obs[step + 1], clip.actions[step]) if inside else None
            found = (batch.obs, batch.next_obs, batch.actions)
            for index, array in enumerate(found):
                wanted = 0.0 if expected is None else expected[index]
                np.testing.assert_array_equal(array[row, step], wanted)


def test_padding_keeps_the_kind_of_number() -> None:
    def clip(n_steps: int) -> Clip:
        return Clip(np.ones((n_steps + 1, 2), np.uint8), np.ones(n_steps, np.int64), "x")

    for lengths in ((2, 3), (3, 3)):
        batch = RewardBatch.from_clips([clip(n) for n in lengths])
        assert (batch.obs.dtype, batch.next_obs.dtype) == (np.uint8, np.uint8)
        assert (batch.actions.dtype, batch.mask.dtype) == (np.int64, np.bool_)
