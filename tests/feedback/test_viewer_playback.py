from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.viewer.playback import END_PAUSE_SECONDS, SPEEDS, Playback, Watched


def make(n: tuple[int, int] = (10, 10), seconds: float = 0.1, **more: float) -> Playback:
    return Playback(n, (seconds, seconds), **more)  # type: ignore[arg-type]


def test_both_clips_show_the_same_frame_at_every_time() -> None:
    playback = make()
    for tenth in range(60):
        time = tenth / 10 + 0.05
        assert playback.frame(0, time) == playback.frame(1, time)


def test_frames_follow_the_clock_and_the_last_stands_for_the_pause() -> None:
    # 10 frames of 0.1 s, then 0.5 s of pause: a cycle of 1.5 s.
    playback = make()
    shown = [playback.frame(0, t + 0.05) for t in (0.0, 0.1, 0.5, 0.9, 1.0, 1.4, 1.5, 1.6, 3.0)]
    assert shown == [0, 1, 5, 9, 9, 9, 0, 1, 0]
    assert [playback.n_loops(t) for t in (0.0, 1.49, 1.51, 3.01)] == [0, 0, 1, 2]


def test_the_pause_at_the_end_lasts_half_a_second_at_any_speed() -> None:
    for speed in SPEEDS:
        playback = make(speed=speed)
        assert END_PAUSE_SECONDS == 0.5
        assert playback.cycle_seconds == pytest.approx(1 / speed + 0.5)
        assert playback.frame(0, 1 / speed + 0.49) == 9
        assert playback.frame(0, 1 / speed + 0.51) == 0


def test_a_shorter_clip_holds_its_last_frame_and_says_that_it_ended() -> None:
    playback = make((4, 10))
    assert [playback.frame(0, t + 0.05) for t in (0.2, 0.3, 0.4, 0.9)] == [2, 3, 3, 3]
    assert playback.frame(1, 0.95) == 9
    assert not playback.has_ended(0, 0.35)
    assert playback.has_ended(0, 0.4)
    assert not any(playback.has_ended(1, t / 10) for t in range(15))


def test_clips_with_frames_of_different_length_stay_on_one_clock() -> None:
    playback = Playback((10, 5), (0.1, 0.2))
    assert [playback.frame(1, t + 0.05) for t in (0.0, 0.1, 0.2, 0.9)] == [0, 0, 1, 4]
    assert playback.seconds == pytest.approx(1.0)


def test_pausing_keeps_the_position_and_playing_goes_on_from_it() -> None:
    paused = make().paused(0.35, True)
    assert paused.frame(0, 0.35) == paused.frame(0, 1000.0) == 3
    going = paused.paused(1000.0, False)
    assert going.frame(0, 1000.2) == 5


def test_a_change_of_speed_does_not_move_the_position() -> None:
    playback = make().faster(0.45, 1)
    assert playback.speed == 1.5
    assert playback.position(0.45) == pytest.approx(0.45)
    assert playback.position(0.65) == pytest.approx(0.45 + 0.2 * 1.5)


def test_speed_goes_from_a_quarter_to_four_and_no_further() -> None:
    assert make().faster(0, -99).speed == 0.25
    assert make().faster(0, 99).speed == 4.0
    assert make().faster(0, 1).faster(0, -1).speed == 1.0


def test_scrubbing_moves_both_clips_and_stays_within_the_loop() -> None:
    playback = make().scrubbed(5.0, 0.5)
    assert playback.frame(0, 5.0) == playback.frame(1, 5.0) == 5
    assert make().scrubbed(5.0, -1.0).position(5.0) == 0.0
    assert make().scrubbed(5.0, 2.0).frame(0, 5.0) == 9


def test_steps_are_single_frames_and_stop_at_both_ends() -> None:
    playback = make().stepped(0.35, 1)
    assert playback.is_paused and playback.frame(0, 99.0) == 4
    assert playback.stepped(99.0, -1).frame(0, 99.0) == 3
    assert playback.stepped(99.0, -50).frame(0, 99.0) == 0
    assert playback.stepped(99.0, 50).frame(0, 99.0) == 9
    assert playback.stepped(99.0, 50).stepped(99.0, -1).frame(0, 99.0) == 8


@given(st.integers(1, 60), st.sampled_from([0.0125, 1 / 30, 0.04, 0.07]))
def test_stepping_through_a_clip_shows_every_frame_once(n: int, seconds: float) -> None:
    playback, seen = make((n, n), seconds).paused(0.0, True), [0]
    for _ in range(n - 1):
        playback = playback.stepped(0.0, 1)
        seen.append(playback.frame(0, 0.0))
    assert seen == list(range(n))


def test_restarting_plays_from_the_first_frame() -> None:
    playback = make().stepped(0.35, 1).restarted(7.0)
    assert not playback.is_paused
    assert playback.frame(0, 7.0) == 0 and playback.frame(0, 7.25) == 2


def test_a_clock_set_back_never_plays_before_the_start() -> None:
    playback = make(anchor_time=100.0)
    assert playback.position(50.0) == 0.0
    assert playback.n_loops(50.0) == 0


@given(
    st.tuples(st.integers(1, 80), st.integers(1, 80)),
    st.floats(0.005, 0.5),
    st.floats(0, 1e5),
    st.sampled_from(SPEEDS),
)
def test_every_frame_shown_exists(
    n: tuple[int, int], seconds: float, time: float, speed: float
) -> None:
    playback = make(n, seconds, speed=speed)
    for side in (0, 1):
        assert 0 <= playback.frame(side, time) < n[side]
    assert 0 <= playback.position(time) <= playback.seconds


@pytest.mark.parametrize(
    "arguments", [((0, 3), (0.1, 0.1)), ((3, 3), (0.0, 0.1)), ((3, 3), (0.1, 0.1), 0, 0, -1.0)]
)
def test_a_playback_of_nothing_is_refused(arguments: tuple[object, ...]) -> None:
    with pytest.raises(ConfigError, match="expected at least 1 frame"):
        Playback(*arguments)  # type: ignore[arg-type]


# --- what was watched -----------------------------------------------------------------------


def look_at(times: list[float], playback: Playback | None = None) -> Watched:
    playback = playback or make()
    watched = Watched(playback)
    for before, now in itertools.pairwise(times):
        watched.look(playback, before, now)
    return watched


def test_the_watched_share_grows_with_the_first_loop_and_then_counts_replays() -> None:
    assert look_at([0.0, 0.45]).fraction == pytest.approx(0.5)  # frames 0 to 4 of 10
    assert look_at([0.0, 0.45, 0.95]).fraction == 1.0
    assert look_at([0.0, 0.95]).replays == 0
    assert look_at([0.0, 0.9, 1.6]).replays == 1
    assert look_at([0.0, 0.9, 1.6, 3.1, 4.6]).replays == 3


def test_what_was_skipped_by_scrubbing_was_not_watched() -> None:
    watched, playback = Watched(make()), make()
    watched.look(playback, 0.0, 0.15)  # frames 0 and 1
    playback = playback.scrubbed(0.15, 0.8)
    watched.look(playback, 0.15, 0.3)  # frames 8 and 9
    assert watched.fraction == pytest.approx(0.4)
    assert watched.replays == 0


def test_a_paused_clip_shows_one_frame_however_long() -> None:
    assert look_at([0.0, 100.0], make().paused(0.25, True)).fraction == pytest.approx(0.1)
