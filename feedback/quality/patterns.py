"""Answers that nothing can be learned from: all ties, one side, in turn, at chance, contradictions.

Each warning takes a test, so that honest answers raise none: a false alarm is rarer than
`FALSE_ALARMS` per labeller over a whole run, in which every round looks anew. Honest means: a side
is preferred in at most `HONEST_SIDE` of the choices, and what can be right or wrong (an answer seen
again, the others' answers, what the reward model predicts) is right in at least `HONEST_SHARE`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

from scipy.stats import binom

from rlhf_gym.data import Choice
from rlhf_gym.feedback.quality.agreement import labeller_name, standing_answers, standing_records
from rlhf_gym.feedback.records import AnswerRecord
from rlhf_gym.protocols import FitReport

__all__ = [
    "FALSE_ALARMS",
    "HONEST_SHARE",
    "HONEST_SIDE",
    "AnswerWarning",
    "answer_warnings",
    "at_chance",
    "find_patterns",
    "nearly_all",
    "standing_warnings",
]

Kind = Literal["ties", "can't tell", "one side", "in turn", "contradictions", "others", "chance"]

HONEST_SIDE = 0.7
"""So strong a liking for one side is still a person's own."""
HONEST_SHARE = 0.7
"""People agree with one another, and with themselves, more often than this."""
FALSE_ALARMS = 0.01
"""Per labeller and warning, over a run of any number of rounds; tests simulate it."""

_LEVEL = 1e-3  # of one look
_MOSTLY = 0.9
_MIN_SILENT = 8  # ties or "can't tell" alone; half of all answers being ties makes that 0.4 %
_OFTEN_EQUAL = 0.9  # a sparse task's honest share of ties


@dataclass(frozen=True)
class AnswerWarning:
    """What was seen, what it means and what to do."""

    kind: Kind
    who: str
    """The labeller, or the teacher where there is none; a round; or empty for all together."""
    text: str
    """Goes behind `who`."""

    def __str__(self) -> str:
        return f"{self.who} {self.text}" if self.who else self.text


def nearly_all(n_hits: int, n: int, honest: float) -> bool:
    """Whether so many of n are more than what happens with a probability of `honest` each.

    Binomial, one-sided, at 1 in 1,000; and nine tenths of them at least.
    """
    if n == 0 or n_hits < _MOSTLY * n:
        return False
    return bool(binom.sf(n_hits - 1, n, honest) < _LEVEL)


def at_chance(n_right: int, n: int) -> bool:
    """Whether n answers of two choices are right no more often than a coin, and n are enough.

    Two binomial tests: `n_right` does not exceed half of n significantly (5 %), and it lies
    significantly (0.1 %) below the `HONEST_SHARE` of n.
    """
    exceeds_half = binom.sf(n_right - 1, n, 0.5) < 0.05
    return bool(not exceeds_half and binom.cdf(n_right, n, HONEST_SHARE) < _LEVEL)


def find_patterns(records: Sequence[AnswerRecord]) -> list[AnswerWarning]:
    """What the answers of each labeller warn of, by themselves and beside the others'.

    Args:
        records: Answers of every kind; those replaced or taken back do not count.
    """
    own: dict[str, list[AnswerRecord]] = defaultdict(list)
    for record in standing_records(records):
        own[labeller_name(record)].append(record)
    others = _agreement_with_others(records)
    found: list[AnswerWarning] = []
    for who in sorted(own):
        answers = standing_answers(own[who])
        silent = _silent(answers)
        tests = [*silent] if silent else [*_one_side(answers), *_in_turn(answers)]
        tests += [*_contradictions(own[who]), *_beside_others(*others.get(who, (0, 0)))]
        found += [replace(warning, who=who) for warning in tests]
    return found


def answer_warnings(
    records: Sequence[AnswerRecord], round_: int, report: FitReport | None
) -> list[AnswerWarning]:
    """Everything that a round's answers, and the fit to all answers so far, warn of.

    Args:
        records: What the round is trained on.
        round_: From 0.
        report: Of the fit; None where no reward is fitted.
    """
    found = find_patterns(records) + _without_a_choice(records, round_)
    if report is not None:
        found += _predicted_at_chance(report.accuracy_heldout, report.n_heldout_decisive)
    return found


def standing_warnings(
    metrics: Sequence[Mapping[str, Any]], kinds: Collection[Kind] = get_args(Kind)
) -> list[AnswerWarning]:
    """What a run's rounds warned of: of the last round that had new answers, and skipped rounds.

    Args:
        metrics: One mapping per round, as metrics.jsonl holds them.
        kinds: Those to take.
    """
    looked = [row["warnings"] for row in metrics if row.get("warnings") is not None]
    return [
        AnswerWarning(row["kind"], row["who"], row["text"])
        for rows in looked
        for row in rows
        if rows is looked[-1] or row["who"].startswith("round ")
        if row["kind"] in kinds
    ]


def _without_a_choice(records: Sequence[AnswerRecord], round_: int) -> list[AnswerWarning]:
    """All answers about this round are "can't tell", which nothing is trained on."""
    standing = standing_answers(records)
    own = [r for r in standing if r.round == round_]
    if not own or any(r.choice is not Choice.SKIP for r in own):
        return []
    n_others = sum(r.choice is not Choice.SKIP for r in standing)
    text = (
        f'all {len(own)} answers are "can\'t tell", which nothing is trained on; the reward is '
        f"learned from the {n_others:,} answers of earlier rounds. Are the clips too short, or "
        "the pictures too bad?"
    )
    return [AnswerWarning("can't tell", f"round {round_ + 1}:", text)]


def _predicted_at_chance(accuracy: float, n: int) -> list[AnswerWarning]:
    """The fitted reward tells n decisive held-out answers no better than a coin would."""
    n_right = int(accuracy * n + 0.5) if n else 0
    if not at_chance(n_right, n):
        return []
    text = (
        f"the learned reward predicts {n_right} of {n} held-out answers, no more than a coin "
        "would: either the answers are random, or what they are about cannot be seen in the "
        "observations. An agent trained on it will be no better than chance; look at the answers "
        "(`rlhf-gym labels`), the rubric, `--obs-keys` and `--clip-length`."
    )
    return _warn("chance", text)


def _warn(kind: Kind, text: str) -> list[AnswerWarning]:
    return [AnswerWarning(kind, "", text)]


def _silent(answers: Sequence[AnswerRecord]) -> list[AnswerWarning]:
    """Nothing but ties, or nothing but "can't tell"."""
    n_skips = sum(r.choice is Choice.SKIP for r in answers)
    if n_skips == len(answers) >= _MIN_SILENT:
        text = (
            f'said "can\'t tell" to all {n_skips} pairs, and nothing is trained on that: are the '
            "clips too short, or the pictures missing?"
        )
        return _warn("can't tell", text)
    n, n_ties = len(answers) - n_skips, sum(r.choice is Choice.TIE for r in answers)
    if not (n_ties == n >= _MIN_SILENT or nearly_all(n_ties, n, _OFTEN_EQUAL)):
        return []
    text = (
        f"called {n_ties} of {n} pairs equal: a reward learned from that makes no difference "
        "between good and bad, and the agent will learn nothing. Ask about clips that differ more "
        "(longer ones: `--clip-length`), or look at the rubric, the keys or the teacher."
    )
    return _warn("ties", text)


def _choices(answers: Sequence[AnswerRecord]) -> tuple[list[bool], tuple[str, str]]:
    """Decisive choices in the order of giving, and what True and False are called.

    By side where a viewer recorded it: what a person prefers is a place on the screen. Else by
    the place in the query.
    """
    decisive = [r for r in answers if r.choice in (Choice.FIRST, Choice.SECOND)]
    sides = [left for r in decisive if (left := r.chose_left) is not None]
    if decisive and len(sides) == len(decisive):
        return sides, ("left", "right")
    return [r.choice is Choice.FIRST for r in decisive], ("first", "second")


def _one_side(answers: Sequence[AnswerRecord]) -> list[AnswerWarning]:
    choices, names = _choices(answers)
    n, (value, n_hits) = len(choices), (Counter(choices).most_common(1) or [(True, 0)])[0]
    if not nearly_all(n_hits, n, HONEST_SIDE):
        return []
    text = (
        f"chose the {names[not value]} one {n_hits} of {n} times, whatever it showed: nothing can "
        "be learned from that. Look at the keys, the viewer or the teacher's rule, and ask anew."
    )
    return _warn("one side", text)


def _in_turn(answers: Sequence[AnswerRecord]) -> list[AnswerWarning]:
    choices, (one, other) = _choices(answers)
    n_changes, n = sum(a != b for a, b in pairwise(choices)), max(len(choices) - 1, 0)
    if not nearly_all(n_changes, n, 0.5):
        return []
    text = (
        f"chose {one} and {other} in turn, {n_changes} changes in {len(choices)} answers: nothing "
        "can be learned from that. Look at the teacher's rule or at who answers, and ask anew."
    )
    return _warn("in turn", text)


def _contradictions(own: Sequence[AnswerRecord]) -> list[AnswerWarning]:
    """Pairs that were shown again, decided both times."""
    first = {r.query_id: r.choice for r in standing_answers(own)}
    again = [
        r.choice is first[r.query_id]
        for r in own
        if r.kind == "repeat" and r.query_id in first
        if not {r.choice, first[r.query_id]} & {Choice.TIE, Choice.SKIP}
    ]
    if not at_chance(sum(again), len(again)):
        return []
    text = (
        f"answered only {sum(again)} of {len(again)} re-shown pairs as before, and the others the "
        "other way round: such answers contradict one another. Look at the rubric, the keys and "
        "the pace."
    )
    return _warn("contradictions", text)


def _agreement_with_others(records: Sequence[AnswerRecord]) -> Mapping[str, tuple[int, int]]:
    """For each labeller: agreements with the majority of the others, and on how many pairs."""
    said: dict[str, dict[str, Choice]] = defaultdict(dict)
    for record in standing_answers(records):
        if record.choice in (Choice.FIRST, Choice.SECOND):
            said[record.query_id][labeller_name(record)] = record.choice
    found: dict[str, tuple[int, int]] = {}
    for answers in said.values():
        n_first = sum(choice is Choice.FIRST for choice in answers.values())
        for who, choice in answers.items():
            lead = 2 * (n_first - (choice is Choice.FIRST)) - (len(answers) - 1)
            if lead:
                n_alike, n = found.get(who, (0, 0))
                found[who] = n_alike + ((choice is Choice.FIRST) == (lead > 0)), n + 1
    return found


def _beside_others(n_alike: int, n: int) -> list[AnswerWarning]:
    if not at_chance(n_alike, n):
        return []
    text = (
        f"agrees with the other labellers on {n_alike} of {n} pairs, no more than a coin would: "
        "somebody answers at random or by another rubric. `rlhf-gym labels` shows who agrees with "
        "whom; `--pooling dawid-skene` weighs the answers, from three labellers on."
    )
    return _warn("others", text)
