from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_gym.data import Choice
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.quality.dawid_skene import CLASSES, fit_dawid_skene, soft_labels
from rlhf_gym.feedback.records import AnswerRecord

FIRST, SECOND, TIE, SKIP = Choice.FIRST, Choice.SECOND, Choice.TIE, Choice.SKIP
# One row per query, one column per labeller; -1 is a missing answer, 3 "can't tell".
CODES = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(st.integers(-1, 3), min_size=n, max_size=n), max_size=10)
)
GOLD = st.dictionaries(st.integers(0, 9), st.integers(0, 3), max_size=5)


def records_of(codes: list[list[int]], gold: dict[int, int] | None = None) -> list[AnswerRecord]:
    """All answers; `gold` has the known answer of some queries."""
    choices = [*CLASSES, SKIP]
    known = {q: choices[code] for q, code in (gold or {}).items()}
    cells = [(q, n, c) for q, row in enumerate(codes) for n, c in enumerate(row) if c >= 0]
    return [
        AnswerRecord(
            i,
            f"{i:032x}",
            f"q{q}",
            0,
            "pairwise",
            choices[c],
            "human",
            f"labeller {n}",
            0.0,
            0.0,
            expected=known.get(q),
        )
        for i, (q, n, c) in enumerate(cells, start=1)
    ]


def crowd(
    n_queries: int, accuracies: list[float], seed: int, share_answered: float = 1.0
) -> tuple[list[list[int]], np.ndarray]:
    """Answers of labellers who are right with a given probability, else the opposite; the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, n_queries)
    codes = np.stack([truth ^ (rng.random(n_queries) >= a) for a in accuracies], axis=1)
    codes[rng.random(codes.shape) >= share_answered] = -1
    return codes.tolist(), truth


def brute_force(
    codes: list[list[int]],
    assumed: list[list[float]],
    made_up: float,
    n_iterations: int,
    gold: dict[int, int],
) -> tuple[list[list[float]], list[float], list[list[list[float]]]]:
    """EM as Dawid & Skene's equations read, one answer at a time, with loops and plain products."""
    labellers, classes = range(len(codes[0])), range(3)
    votes = [[row.count(k) for k in classes] for row in codes]
    post = [[v / sum(vote) for v in vote] for vote in votes]
    for q, known in gold.items():
        post[q] = [float(k == known) for k in classes]
    for iteration in range(n_iterations + 1):
        shares = [sum(p[k] for p in post) + made_up for k in classes]
        priors = [s / sum(shares) for s in shares]
        matrices = []
        for r, k in product(labellers, classes):
            row = [
                assumed[k][a] + sum(p[k] for p, c in zip(post, codes, strict=True) if c[r] == a)
                for a in classes
            ]
            matrices.append([v / sum(row) if sum(row) else 1 / 3 for v in row])
        confusions = [matrices[3 * r : 3 * r + 3] for r in labellers]
        if iteration == n_iterations:
            return post, priors, confusions
        joint = [
            [priors[k] * math.prod(confusions[r][k][a] for r, a in enumerate(row) if 0 <= a < 3)
             for k in classes]
            for row in codes
        ]  # fmt: skip
        post = [
            [float(k == gold[q]) for k in classes] if q in gold else [j / sum(row) for j in row]
            for q, row in enumerate(joint)
        ]
    raise AssertionError


@settings(max_examples=50)
@given(CODES, GOLD, st.sampled_from([(0.0, 0.0), (5.0, 1.0)]), st.integers(1, 6))
def test_the_fit_equals_the_published_equations_one_answer_at_a_time(
    codes: list[list[int]], gold: dict[int, int], smoothing: tuple[float, float], n_iterations: int
) -> None:
    pseudo_answers, made_up = smoothing
    fit = fit_dawid_skene(
        records_of(codes, gold),
        pseudo_answers=pseudo_answers,
        tolerance=1e-300,
        max_iterations=n_iterations,
    )
    rows = [q for q, row in enumerate(codes) if any(0 <= c < 3 for c in row)]
    assert set(fit.query_ids) == {f"q{q}" for q in rows}
    if not rows:
        return
    # 0.8 right and 0.1 for each of two wrong answers, times the made-up answers
    assumed = [[pseudo_answers * (0.8 if a == k else 0.1) for a in range(3)] for k in range(3)]
    # A known "can't tell" (3) is none of the classes: such a query is like any other.
    known = {place: gold[q] for place, q in enumerate(rows) if gold.get(q, 3) < 3}
    post, priors, confusions = brute_force(
        [codes[q] for q in rows], assumed, made_up, len(fit.objectives), known
    )
    order = [fit.query_ids.index(f"q{q}") for q in rows]
    np.testing.assert_allclose(fit.posteriors[order], post, rtol=0, atol=1e-9)
    np.testing.assert_allclose(fit.priors, priors, rtol=0, atol=1e-9)
    answered = [int(name.split()[1]) for name in fit.labellers]
    expected = np.array(confusions)[answered]
    np.testing.assert_allclose(fit.confusions, expected, rtol=0, atol=1e-9)


@settings(max_examples=60)
@given(CODES, GOLD, st.sampled_from([0.0, 0.5, 5.0]))
def test_the_objective_never_falls(
    codes: list[list[int]], gold: dict[int, int], pseudo_answers: float
) -> None:
    fit = fit_dawid_skene(records_of(codes, gold), pseudo_answers=pseudo_answers, max_iterations=60)
    steps = np.diff(fit.objectives)
    assert np.isfinite(fit.objectives).all()
    # sums of up to 40 logarithms of doubles: rounding, not descent
    assert (steps >= -1e-9).all()


@given(CODES, st.sampled_from([0.0, 5.0]))
@settings(max_examples=60)
def test_everything_fitted_is_a_probability(codes: list[list[int]], pseudo_answers: float) -> None:
    fit = fit_dawid_skene(records_of(codes), pseudo_answers=pseudo_answers, max_iterations=60)
    n, r = len(fit.query_ids), len(fit.labellers)
    assert (fit.posteriors.shape, fit.confusions.shape) == ((n, 3), (r, 3, 3))
    for shares in (fit.posteriors, fit.confusions, fit.priors):
        assert (shares >= 0.0).all()
        np.testing.assert_allclose(shares.sum(axis=-1), 1.0, rtol=0, atol=1e-12)
    labels, reliabilities = fit.soft_labels(), fit.reliabilities()
    assert all(0.0 <= value <= 1.0 for value in [*labels.values(), *reliabilities.values()])


def test_the_unsmoothed_objective_is_the_log_likelihood() -> None:
    codes, _ = crowd(30, [0.9, 0.8, 0.7], seed=2)
    one, two = (
        fit_dawid_skene(records_of(codes), pseudo_answers=0.0, tolerance=1e-300, max_iterations=n)
        for n in (1, 2)
    )
    # What two iterations start their second one from is what one iteration ends with.
    expected = sum(
        math.log(
            sum(
                one.priors[k] * math.prod(one.confusions[r, k, a] for r, a in enumerate(row))
                for k in range(3)
            )
        )
        for row in codes
    )
    assert two.objectives[1] == pytest.approx(expected, abs=1e-9)


def test_swapping_first_and_second_swaps_the_result() -> None:
    codes, _ = crowd(60, [0.9, 0.8, 0.6], seed=5, share_answered=0.8)
    swapped = [[{0: 1, 1: 0}.get(c, c) for c in row] for row in codes]
    labels, mirrored = soft_labels(records_of(codes)), soft_labels(records_of(swapped))
    assert labels.keys() == mirrored.keys()
    # both fits stop within 1e-6 of where they stand
    assert all(labels[q] + mirrored[q] == pytest.approx(1.0, abs=1e-5) for q in labels)


# crowd-kit 1.4 uses what pandas 3 will take away.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("n_gold", [0, 20])
def test_crowd_kit_finds_the_same_without_smoothing(seed: int, n_gold: int) -> None:
    pandas = pytest.importorskip("pandas", reason="crowd-kit needs pandas: the `crowd` extra")
    aggregation = pytest.importorskip("crowdkit.aggregation", reason="needs the `crowd` extra")
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, 120, p=[0.4, 0.4, 0.2])
    codes = np.stack(
        [np.where(rng.random(120) < a, truth, rng.integers(0, 3, 120)) for a in (0.9, 0.7, 0.5)],
        axis=1,
    )
    codes[rng.random(codes.shape) < 0.1] = -1
    gold = {q: int(truth[q]) for q in range(n_gold)}
    fit = fit_dawid_skene(
        records_of(codes.tolist(), gold), pseudo_answers=0.0, tolerance=1e-300, max_iterations=15
    )
    rows = [(f"q{q}", f"labeller {r}", int(codes[q, r])) for q, r in np.argwhere(codes >= 0)]
    data = pandas.DataFrame(rows, columns=["task", "worker", "label"])
    # A negative tolerance never stops it. Both start from the majority vote, so that they must
    # agree after any number of iterations, not only where they converge.
    peer = aggregation.DawidSkene(n_iter=15, tol=-math.inf)
    known = pandas.Series({f"q{q}": code for q, code in gold.items()}) if gold else None
    peer.fit(data, known)
    posteriors = peer.probas_.loc[list(fit.query_ids), [0, 1, 2]].to_numpy()
    np.testing.assert_allclose(fit.posteriors, posteriors, rtol=0, atol=1e-4)
    np.testing.assert_allclose(fit.priors, peer.priors_.loc[[0, 1, 2]], rtol=0, atol=1e-4)
    for r, name in enumerate(fit.labellers):
        errors = peer.errors_.loc[name].reindex(index=[0, 1, 2], columns=[0, 1, 2]).to_numpy().T
        np.testing.assert_allclose(fit.confusions[r], errors, rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_one_adversary_among_five_is_found_and_outvoted(seed: int) -> None:
    codes, truth = crowd(200, [0.9, 0.85, 0.8, 0.75, 0.0], seed, share_answered=0.6)
    fit = fit_dawid_skene(records_of(codes))
    reliabilities = fit.reliabilities()
    worst = min(reliabilities, key=lambda name: reliabilities[name])
    assert worst == "labeller 4"
    # Not 0: where two or three answered, the others' mistakes leave the truth open, and 5 made-up
    # answers at 80 % stand beside about 60 real ones per class. A coin would have 0.5.
    assert reliabilities[worst] < 0.25
    assert all(value > 0.65 for name, value in reliabilities.items() if name != worst)
    labels = fit.soft_labels()
    asked = [q for q in range(200) if f"q{q}" in labels]
    ours = np.mean([(labels[f"q{q}"] > 0.5) == (truth[q] == 0) for q in asked])
    votes = [sum(1 if c == 0 else -1 for c in codes[q] if c >= 0) for q in asked]
    # A drawn vote is right half the time.
    majority = np.mean(
        [0.5 if v == 0 else (v > 0) == (truth[q] == 0) for q, v in zip(asked, votes, strict=True)]
    )
    assert ours > majority + 0.05


def test_an_answer_that_only_the_adversary_gave_is_read_the_other_way_round() -> None:
    codes, _ = crowd(100, [0.95, 0.9, 0.9, 0.85, 0.0], seed=0)
    codes += [[-1, -1, -1, -1, 0], [-1, -1, -1, -1, 1]]
    labels = soft_labels(records_of(codes))
    assert labels["q100"] < 0.1
    assert labels["q101"] > 0.9


def test_known_answers_unmask_a_majority_of_adversaries() -> None:
    codes, truth = crowd(100, [0.9, 0.05, 0.0], seed=0)
    blind = fit_dawid_skene(records_of(codes)).reliabilities()
    assert blind["labeller 0"] < 0.3 and blind["labeller 2"] > 0.8  # the majority is believed
    gold = {q: int(truth[q]) for q in range(20)}
    fit = fit_dawid_skene(records_of(codes, gold))
    seen = fit.reliabilities()
    assert seen["labeller 0"] > 0.8 and max(seen["labeller 1"], seen["labeller 2"]) < 0.2
    labels = fit.soft_labels()
    assert [labels[f"q{q}"] for q in range(20)] == [1.0 - code for code in truth[:20]]
    right = [(labels[f"q{q}"] > 0.5) == (truth[q] == 0) for q in range(20, 100)]
    assert np.mean(right) > 0.95
    assert fit.n_known == (20, 20, 20)


def test_an_answer_asked_for_its_known_answer_alone_weighs_its_labeller() -> None:
    # 40 pairs by everybody, then pairs that one labeller alone was asked, and got wrong.
    codes = [[0, 0, 0], [1, 1, 1]] * 20 + [[-1, -1, 1]] * 20
    gold = {q: 0 for q in range(40, 60)}
    hidden = {f"q{q}" for q in gold}
    records = records_of(codes, gold)
    for kind, enters in (("gold", True), ("practice", False), ("qualification", False)):
        asked = [replace(r, kind=kind) if r.query_id in hidden else r for r in records]
        fit = fit_dawid_skene(asked)
        assert fit.n_known == ((0, 0, 20) if enters else (0, 0, 0))
        careless = fit.reliabilities()["labeller 2"]
        assert (careless < 0.75) is enters
    # of 40 pairs with class "first" 20 right, beside 5 made-up answers that are right by 0.8:
    assert fit_dawid_skene(records).confusions[2, 0, 0] == pytest.approx(24 / 45, abs=0.01)


def test_the_better_of_two_who_disagree_is_believed() -> None:
    codes, _ = crowd(300, [0.95, 0.9, 0.6], seed=1)
    labels = soft_labels(records_of([*codes, [0, -1, 1]]))
    assert labels["q300"] > 0.8


def test_a_lone_labeller_is_believed_as_far_as_is_assumed() -> None:
    codes = [[0], [1]] * 100
    fit = fit_dawid_skene(records_of(codes))
    assert fit.n_shared == (0,)
    labels = fit.soft_labels()
    # Nothing else is known: right with 0.8, so that an answer is worth about 0.8 to 0.9, and the
    # same on both sides.
    assert 0.8 < labels["q0"] < 0.95
    assert labels["q0"] + labels["q1"] == pytest.approx(1.0, abs=1e-5)


def test_ties_pull_a_label_to_one_half_and_cant_tell_is_no_answer() -> None:
    codes = [[0, 0, 0], [1, 1, 1], [2, 2, 2]] * 20 + [[3, 3, 3], [0, 3, 3]]
    fit = fit_dawid_skene(records_of(codes))
    labels = fit.soft_labels()
    assert labels["q0"] > 0.99
    assert labels["q1"] < 0.01
    assert labels["q2"] == pytest.approx(0.5, abs=1e-3)
    assert "q60" not in labels
    # the only answer to the last query was given by one: it is shared with nobody
    assert fit.n_shared == (60, 60, 60)
    assert labels["q61"] > 0.9


def test_no_answer_at_all_gives_an_empty_fit() -> None:
    for answers in ([], records_of([[3, 3]])):
        fit = fit_dawid_skene(answers)
        assert (fit.query_ids, fit.labellers, fit.converged) == ((), (), True)
        assert soft_labels(answers) == {}
        np.testing.assert_allclose(fit.priors, 1 / 3)


def test_a_fit_that_is_cut_short_says_so() -> None:
    codes, _ = crowd(50, [0.9, 0.7, 0.6], seed=3)
    short = fit_dawid_skene(records_of(codes), max_iterations=2)
    assert (short.converged, len(short.objectives)) == (False, 2)
    assert fit_dawid_skene(records_of(codes)).converged


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("pseudo_answers", -1.0),
        ("pseudo_answers", math.nan),
        ("assumed_accuracy", 1.0),
        ("assumed_accuracy", 0.3),
        ("tolerance", 0.0),
        ("max_iterations", 0),
    ],
)
def test_a_setting_out_of_range_is_named(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"`{setting}` is {value}"):
        fit_dawid_skene([], **{setting: value})
