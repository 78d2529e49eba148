"""Texts labelled in a terminal, by single keys."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rlhf_gym.data import Choice, Clip, Query
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.feedback.viewer.keymap import DEFAULT_KEYS, Keymap
from rlhf_gym.text_clips import text_clip
from tests.feedback.terminal_sitting import at_terminal, choices, make_query, sit_down

LEFT, RIGHT, UP, DOWN = b"\x1b[D", b"\x1b[C", b"\x1b[A", b"\x1bOB"


# --- a sitting ------------------------------------------------------------------------------


def test_a_whole_sitting_by_single_keys(store: PreferenceStore) -> None:
    store.post([make_query(i) for i in range(6)])
    session = sit_down(store, total=6)
    n, seen = at_terminal(
        session,
        [
            (r"Question 0\?", LEFT),
            (r"Question 1\?", b"2"),
            (r"Question 2\?", UP),
            (r"Question 3\?", DOWN),
            (r"Question 4\?", b"s"),
            (r"Question 5\?", b"1"),
            (r"Question 4\?", b"z"),
            (r"Question 5\?", b"c"),
            ("Comment", "Čapek says no\x7f\x7fyes 🙂\r".encode()),
            ("Comment: Čapek says yes 🙂", RIGHT),
            (r"Question 4\?", LEFT),
            ("Thank you", b"q\r"),
        ],
    )
    assert n == 6
    records = store.answer_records()
    assert [r.chose_left for r in records] == [True, False, None, None, False, True]
    assert [r.choice for r in records[2:4]] == [Choice.TIE, Choice.SKIP]
    assert [r.details.get("comment") for r in records] == [None] * 4 + ["Čapek says yes 🙂", None]
    assert all(r.details["input"] == "key" and r.seconds is not None for r in records)
    assert store.counts()["n_superseded"] == 2
    assert "6 / 6" in seen and "saved " in seen
    assert store.rows("SELECT count(*) FROM leases") == [(0,)]


@pytest.mark.parametrize("how", [b"q", b"\x1b", b"\x04", b"\x03"])
def test_quitting_in_the_middle_keeps_what_was_answered(store: PreferenceStore, how: bytes) -> None:
    store.post([make_query(i) for i in range(3)])
    if how == b"\x03":  # Ctrl-C reaches the process as an exception, whatever the terminal
        session = sit_down(store)
        session.tick = _interrupt  # type: ignore[method-assign]
        assert at_terminal(session, [])[0] == 0
        return
    script = [(r"Question 0\?", b"1"), (r"Question 1\?", how)]
    if how != b"\x04":  # a single key may be a mistake; the end of the input is none
        script += [(r"Quit labelling\?.*saved", b"x"), (r"Question 1\?", how), ("Quit", b"\r")]
    n, _ = at_terminal(sit_down(store), script)
    assert n == 1 and len(store.answer_records()) == 1
    assert store.counts()["n_open"] == 2


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_practice_tells_in_words_who_was_right(store: PreferenceStore) -> None:
    queries = [make_query(i) for i in range(3)]
    store.post(queries)
    store.mark_gold({query.id: Choice.TIE for query in queries[:2]}, "owner")
    session = sit_down(store, practice=2)
    n, seen = at_terminal(
        session,
        [
            ("practice.*LEFT", b"="),
            ("RIGHT: both are equally good", b" "),
            ("practice.*LEFT", b"1"),
            ("NOT SO: you said that the left one is better; both are equally good", b" "),
            (r"Question \d\?", b"q\r"),
        ],
        size=(100, 24),
    )
    assert n == 2 and [r.kind for r in store.answer_records()] == ["practice"] * 2
    assert "tie" not in seen


def test_the_rubric_comes_first_and_on_a_key_and_help_names_every_key(
    store: PreferenceStore,
) -> None:
    store.post([make_query(0)])
    session = sit_down(store, rubric="# Judge\n\n1. **Helpful** beats polite.")
    _, seen = at_terminal(
        session,
        [
            ("beats polite", LEFT),  # closes the page, answers nothing
            (r"Question 0\?", b"g"),
            ("beats polite", b" "),
            (r"Question 0\?", b"?"),
            ("take the last answer back", b" "),
            (r"Question 0\?", b"q\r"),
        ],
        size=(100, 30),
    )
    assert store.answer_records() == []
    for keys in DEFAULT_KEYS.values():
        assert re.search(rf"(?i){re.escape(keys[0])}", seen)


@pytest.mark.parametrize("ended", [(True, True), (False, True), (False, False)])
def test_a_text_that_a_length_limit_cut_off_says_so(
    store: PreferenceStore, ended: tuple[bool, bool]
) -> None:
    texts = [text_clip("Why?", word, end) for word, end in zip(("aye", "nay"), ended, strict=True)]
    store.post([Query((texts[0], texts[1]), seed=0, round=0, index=0)])
    session = sit_down(store)
    assert session.question is not None and session.question.query.first.id == texts[0].id
    sides = ended if session.question.left == "first" else ended[::-1]
    script = [
        ("Why.*aye|Why.*nay", b"?"),
        ('marked "cut off" met a length limit', b" "),
        ("aye|nay", b"q\r"),
    ]
    _, seen = at_terminal(session, script)
    for title, has_ended in zip(("LEFT", "RIGHT"), sides, strict=True):
        assert (f"{title} · cut off" in seen) is not has_ended


def test_differences_are_marked_on_a_key(store: PreferenceStore) -> None:
    store.post([make_query(0, "the cat sat on a mat", "the dog sat on a mat")])
    _, seen = at_terminal(
        sit_down(store),
        [
            (r"cat sat on a mat", b"d"),
            # Bold and underlined, the word alone.
            ("\x1b\\[1;4mcat\x1b\\[0m sat on a mat", b"q\r"),
        ],
    )
    assert "\x1b[1;4mdog\x1b[0m sat" in seen and "\x1b[1;4mthe" not in seen


def test_long_texts_scroll_together_and_lines_keep_the_width(store: PreferenceStore) -> None:
    long = [" ".join(f"{side}{i}" for i in range(300)) for side in "ab"]
    store.post([make_query(0, *long)])
    _, seen = at_terminal(
        sit_down(store),
        [
            ("a0 .*\n.*more lines|more lines", b"."),
            ("a8[0-9] ", b"." * 12),
            ("a299", b"r"),
            ("a0 ", b"q\r"),
        ],
        size=(60, 16),
    )
    for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "\n", seen).splitlines():
        assert len(line) <= 60
    rows = [line for line in seen.splitlines() if re.search(r"[ab]\d+ .*[ab]\d+ ", line)]
    assert rows and all(len(row.split("│")[1]) == len(row.split("│")[3]) for row in rows)


def test_pairs_posted_later_are_shown_without_a_key(store: PreferenceStore) -> None:
    session = sit_down(store)
    posted = [False]
    tick = session.tick

    def tick_and_post() -> None:
        if not posted[0] and session.state == "waiting" and session.seconds > 0.2:
            store.post([make_query(0)])
            posted[0] = True
        tick()

    session.tick = tick_and_post  # type: ignore[method-assign]
    n, _ = at_terminal(session, [("Waiting for new pairs", b""), (r"Question 0\?", b"1q\r")])
    assert n == 1


def test_other_keys_do_the_same_where_they_are_mapped(store: PreferenceStore) -> None:
    store.post([make_query(0)])
    keymap = Keymap({**DEFAULT_KEYS, "left": ("a",), "right": ("f2",)})
    script = [(r"Question 0\?", LEFT + b"1\x1bOQ"), ("Waiting", b"q\r")]
    n, _ = at_terminal(sit_down(store), script, keymap=keymap)
    assert n == 1 and choices(store)[0][1] is False


# --- what must not happen -------------------------------------------------------------------


def test_clips_of_an_environment_are_refused(store: PreferenceStore) -> None:
    clips = [
        Clip(np.full((3, 1), i, np.float32), np.zeros((2, 1), np.float32), "Ant") for i in (0, 1)
    ]
    store.post([Query((clips[0], clips[1]), seed=0, round=0, index=0)])
    session = sit_down(store)
    with pytest.raises(ConfigError, match=r"clips of Ant.*leave `--terminal` out"):
        at_terminal(session, [])
    assert store.rows("SELECT count(*) FROM leases") == [(0,)]


def test_texts_cannot_steer_the_terminal(store: PreferenceStore) -> None:
    store.post(
        [make_query(0, "red \x1b[31m\x1b]0;title\x07 \x9b2J text", "[bold]not markup[/bold]")]
    )
    _, seen = at_terminal(sit_down(store), [("not markup", b"q\r")])
    assert "\x1b[31m" not in seen and "\x1b]0" not in seen and "\x9b" not in seen
    assert "\x07" not in seen and "[bold]not markup[/bold]" in seen


def test_a_failed_save_is_shown_and_the_same_key_tries_again(
    store: PreferenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.post([make_query(0)])
    session = sit_down(store, total=1)
    answer, calls = session.desk.answer, []

    def fail_once(*args: object, **options: object) -> None:
        calls.append(options["uuid"])
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        answer(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(session.desk, "answer", fail_once)
    _, seen = at_terminal(
        session, [(r"Question 0\?", b"1"), ("No space left on device", b"1"), ("Thank", b"q\r")]
    )
    assert "NOT SAVED" in seen
    assert len(store.answer_records()) == 1 and len(set(calls)) == 1
