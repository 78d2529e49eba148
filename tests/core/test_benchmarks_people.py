"""The benchmarks whose answers come from scripted people, and those on people's sentences."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rlhf_gym.data import Choice, Clip, Query
from rlhf_gym.feedback.store import PreferenceStore


@pytest.fixture(scope="module")
def adversary(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("adversary")


class Trainer:
    """Ends once every pair has the answers that were asked for."""

    def __init__(self, store: PreferenceStore, n_answers: int) -> None:
        self.store, self.n_answers = store, n_answers

    def poll(self) -> int | None:
        return 0 if len(self.store.answer_records()) >= self.n_answers else None


def test_one_labeller_says_the_opposite_and_the_honest_err_rarely(
    adversary: ModuleType, make_clip: Callable[[], Clip], tmp_path: Path
) -> None:
    n, per_pair = 100, adversary.PER_PAIR
    queries = [Query((make_clip(), make_clip()), seed=7, round=0, index=i) for i in range(n)]
    better = {q.id: int(np.argmax([clip.true_return for clip in q.clips])) for q in queries}
    with PreferenceStore(tmp_path / "run") as store:
        store.rows("PRAGMA synchronous = OFF")
        store.post(queries, n_wanted=per_pair)
        adversary.label(tmp_path / "run", Trainer(store, n * per_pair), True, 0)
        records = store.answer_records()
    right: dict[str, list[bool]] = {f"labeller-{i}": [] for i in range(adversary.N_LABELLERS)}
    for record in records:
        best = (Choice.FIRST, Choice.SECOND)[better[record.query_id]]
        right[record.labeller].append(record.choice is best)
    assert Counter(record.query_id for record in records) == dict.fromkeys(better, per_pair)
    opposite = right.pop("labeller-0")
    assert opposite and not any(opposite)
    honest = [answer for answers in right.values() for answer in answers]
    # 300 answers, about 240 of them honest and 12 of those wrong: 30 lie 5 deviations further.
    assert 0 < honest.count(False) < 30


def test_a_stopped_comparison_goes_on_with_its_own_runs_only(
    adversary: ModuleType, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"env": "A-v0", "seeds": [1], "pairs": 7, "steps": None, "out": "x"}
    path, runs = tmp_path / "x.json", [{"way": "honest", "seed": 1}]
    assert adversary.there(path, options) == []
    path.write_text(json.dumps({"figures": {"options": options, "runs": runs}}))
    assert adversary.there(path, {**options, "seeds": [1, 2]}) == runs
    assert adversary.there(path, {**options, "pairs": 8}) is None


def test_the_judges_read_no_sentence_that_the_policy_learned_from(
    load: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    sentences = [f"film {i % 30} was fine" for i in range(50)]  # 20 of them twice
    path = tmp_path / "train.tsv.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{text}\t{i % 30 % 2}\n" for i, text in enumerate(sentences))
    bench = load("text_sst2")
    (mine, labels), (judges, _) = bench.halves(path, 0)
    assert set(mine) | set(judges) == set(sentences)
    assert len(mine) == len(judges) == 15 and not set(mine) & set(judges)
    assert [int(text.split()[1]) % 2 == 1 for text in mine] == labels.tolist()
    assert bench.halves(path, 1)[0][0] != mine


def test_an_opening_and_its_rest_are_the_sentence(load: Callable[[str], ModuleType]) -> None:
    cut = load("text_sst2").cut
    assert cut("a film of great charm") == ("a film of", " great charm")
    assert cut("so bad") == ("so bad", "")


def test_pictures_are_measured_on_every_env(
    load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = load("pictures")
    monkeypatch.setattr("sys.argv", ["pictures.py", "--smoke", "--out", str(tmp_path)])
    bench.main()
    figures = json.loads((tmp_path / "pictures.json").read_text())["figures"]
    for env_id in bench.ENVS:
        rates = figures[env_id]["steps_per_second"]
        assert len(rates["without"]["all"]) == len(rates["with_pictures"]["all"]) == 2
        assert figures[env_id]["reduced_and_jpeg"]["bytes"] > 500, "a picture, not a blank"
