"""Training with people: they answer in another thread through a desk, as through a window."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from rlhf_gym import training
from rlhf_gym.config import to_yaml
from rlhf_gym.data import Choice, Preference
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.answer_sources import People
from rlhf_gym.feedback.desk import LabelDesk
from rlhf_gym.feedback.given import add_given, read_given
from rlhf_gym.feedback.settings import FitSettings, RewardModelSettings
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.label_options import LabelOptions
from rlhf_gym.labelling import open_sitting
from rlhf_gym.runs import Run
from rlhf_gym.train_config import TrainConfig, read_run_config

SMALL = TrainConfig(
    env="rlhf_gym/PointMass-v0",
    teacher="human",
    labels=40,
    steps=4000,
    rounds=4,
    clip_length=10,
    eval_episodes=1,
    final_episodes=1,
    ensemble=RewardModelSettings(hidden=(16,), fit=FitSettings(max_epochs=2)),
    hyperparameters={"n_envs": 4, "n_steps": 100, "batch_size": 100, "n_epochs": 1},
)


def label(folder: Path, labeller: str, stop: threading.Event, undo_every: int = 7) -> None:
    """Answer by the true return, and every now and then take one back and answer again."""
    while not (folder / "preferences.db").exists() and not stop.is_set():
        time.sleep(0.01)
    with PreferenceStore(folder) as store, LabelDesk(store, labeller) as desk:
        n = 0
        while not stop.is_set():
            upcoming = desk.upcoming(3)
            if not upcoming:
                time.sleep(0.01)
                continue
            question = upcoming[0]
            first, second = store.query(question.query.id).clips
            better = Choice.FIRST if first.true_return > second.true_return else Choice.SECOND
            desk.answer(question, question.side(better), shown_at=time.time())
            n += 1
            if n % undo_every == 0:
                desk.undo()


def train_with(config: TrainConfig, folder: Path, labellers: list[str]) -> Run:
    stop = threading.Event()
    threads = [threading.Thread(target=label, args=(folder, who, stop)) for who in labellers]
    for thread in threads:
        thread.start()
    try:
        return training.train(config, folder, quiet=True)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def weights(run: Run) -> dict[str, str]:
    checkpoint = run.latest_checkpoint()
    assert checkpoint is not None
    files = sorted(checkpoint.folder.glob("*.safetensors"))
    assert len(files) == 2
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module", autouse=True)
def quick_polls():
    """Half a second per look at the store is for people."""
    with pytest.MonkeyPatch.context() as patch:
        build = training._build_answers

        def impatient(config: TrainConfig):
            source = build(config)
            if isinstance(source, People):
                source.poll_seconds = 0.01
            return source

        patch.setattr(training, "_build_answers", impatient)
        yield


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Run:
    return train_with(SMALL, tmp_path_factory.mktemp("people") / "a", ["anna"])


def test_the_label_schedule_is_the_clock(labelled: Run) -> None:
    config = training.prepare(read_run_config(labelled))
    due = 0
    for metrics, asked in zip(labelled.metrics(), config.plan.labels, strict=True):
        due += asked
        assert 0.8 * due <= metrics["n_labels"] <= due
    summary = json.loads(labelled.summary_path.read_text())
    # The last round waits for all of them: no answer is given in vain.
    assert summary["n_labels"] == labelled.metrics()[-1]["n_labels"] == due == 40
    assert summary["n_answers_late"] == summary["n_answers_missing"] == 0
    assert summary["warnings"] == [] or "no better than random" in summary["warnings"][0]


def test_a_replay_of_the_answers_ends_with_the_same_weights(labelled: Run, tmp_path: Path) -> None:
    resolved = read_run_config(labelled)
    config = dataclasses.replace(resolved, teacher=f"replay:{labelled.folder}")
    replayed = training.train(config, tmp_path / "b", quiet=True)
    assert weights(replayed) == weights(labelled)
    with PreferenceStore(labelled.store_folder) as a, PreferenceStore(replayed.store_folder) as b:
        last = labelled.metrics()[-1]["last_sequence"]
        taken_back = [r for r in a.answer_records(superseded=True) if r.kind == "retraction"]
        assert taken_back, "the labeller took something back"
        assert b.answer_records(superseded=True) == [
            r for r in a.answer_records(superseded=True) if r.sequence <= last
        ]


def test_without_waiting_a_closing_round_learns_what_came_late(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, wait=False)
    plan = training.prepare(config).plan
    waiting = training.prepare(SMALL).plan
    assert plan.labels[-1] == 0 and sum(plan.labels) == 40
    assert plan.steps[-1] > 0 and sum(plan.steps) + plan.warm_up <= 4000
    assert waiting.labels[-1] > 0 and waiting.steps == plan.steps
    run = train_with(config, tmp_path / "run", ["anna"])
    again = training.prepare(read_run_config(run)).plan
    assert (again.labels, again.steps) == (plan.labels, plan.steps), "it resumes by the same plan"
    replay = dataclasses.replace(read_run_config(run), teacher=f"replay:{run.folder}")
    assert weights(training.train(replay, tmp_path / "again", quiet=True)) == weights(run)


def test_who_runs_it_can_go_on_without_a_labeller_who_has_left(tmp_path: Path, capsys) -> None:
    """One answers four questions out of five and leaves; the last round would wait for ever."""
    folder = tmp_path / "run"

    class StopError(Exception):
        pass

    def leave(seconds: float) -> None:
        with PreferenceStore(folder) as store:
            if queries := store.open_queries():
                by_return = sorted(queries[0].clips, key=lambda clip: clip.true_return)
                first = by_return[-1] is queries[0].first
                choice = Choice.FIRST if first else Choice.SECOND
                if store.counts()["n_answers"] < 34:
                    store.answer([Preference(queries[0], choice, "human", labeller="anna")])
                    return
        raise StopError

    with pytest.MonkeyPatch.context() as patch:
        build = training._build_answers
        patch.setattr(
            training,
            "_build_answers",
            lambda config: dataclasses.replace(build(config), sleep=leave),
        )
        with pytest.raises(StopError):
            training.train(SMALL, folder)
    shown = capsys.readouterr().out
    assert "the last round waits for all answers" in shown
    assert f"rlhf-gym train --resume {folder} --no-wait" in shown
    run = training.resume(folder, quiet=True, wait=False)
    summary = json.loads(run.summary_path.read_text())
    assert (summary["n_labels"], summary["n_labels_planned"]) == (34, 40)
    assert summary["n_answers_missing"] == 6
    assert read_run_config(run).wait, "what the run was begun with stays"


def test_two_people_answer_every_pair_when_two_answers_are_asked(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, answers_per_query=2, label_slack=0.0)
    run = train_with(config, tmp_path / "run", ["anna", "bert"])
    with PreferenceStore(run.store_folder) as store:
        records = [r for r in store.answer_records() if r.kind == "pairwise"]
        assert store.counts()["n_queries"] == 20 and len(records) == 40
        assert len({(r.query_id, r.labeller) for r in records}) == 40


def test_a_run_starts_from_given_answers_alone(labelled: Run, tmp_path: Path) -> None:
    config = dataclasses.replace(
        SMALL, teacher="synthetic", labels=0, preferences=str(labelled.folder)
    )
    run = training.train(config, tmp_path / "run", quiet=True)
    with PreferenceStore(labelled.store_folder) as store:
        n_given = store.counts()["n_answers"]
    assert [m["n_labels"] for m in run.metrics()] == [n_given] * len(run.metrics())
    fits = ["reward_log_loss_train" in m for m in run.metrics()]
    assert fits == [True] + [False] * (len(fits) - 1), "one fit, for nothing new came in"


def test_given_answers_stand_beside_the_new_ones(labelled: Run, tmp_path: Path) -> None:
    config = dataclasses.replace(
        SMALL, teacher="synthetic", labels=12, preferences=str(labelled.folder)
    )
    run = training.train(config, tmp_path / "run", quiet=True)
    with PreferenceStore(labelled.store_folder) as store:
        n_given = store.counts()["n_answers"]
    assert run.metrics()[-1]["n_labels"] == n_given + 12


def test_a_run_that_was_given_answers_resumes_without_their_source(
    labelled: Run, tmp_path: Path, stopped_after
) -> None:
    source = tmp_path / "source"
    shutil.copytree(labelled.folder, source)
    config = dataclasses.replace(SMALL, teacher="synthetic", labels=12, preferences=str(source))
    with stopped_after(1):
        training.train(config, tmp_path / "run", quiet=True)
    shutil.rmtree(source)
    resumed = training.resume(tmp_path / "run", quiet=True)
    with PreferenceStore(labelled.store_folder) as store:
        n_given = store.counts()["n_answers"]
    assert resumed.metrics()[-1]["n_labels"] == n_given + 12


def test_a_labeller_is_not_done_by_what_was_given(labelled: Run, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, preferences=str(labelled.folder), labels=8)
    run = Run.create(tmp_path / "run", {"config.yaml": to_yaml(training.prepare(config).config)})
    with PreferenceStore(run.store_folder) as store:
        n_given = add_given(
            store, read_given(labelled.folder, SMALL.env, training.prepare(config).info)
        )
    with open_sitting(run.folder, LabelOptions(labeller="anna")) as session:
        assert session.total == n_given + 8


def test_given_answers_may_be_wrong_unless_told(labelled: Run) -> None:
    config = dataclasses.replace(SMALL, teacher="synthetic", preferences=str(labelled.folder))
    assert training.prepare(config).config.ensemble.fit.label_noise == 0.1
    alone = dataclasses.replace(config, preferences=None)
    assert training.prepare(alone).config.ensemble.fit.label_noise == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": 0}, "`labels` is 0 and no `preferences` are given"),
        ({"answers_per_query": 3}, r"must divide `labels` \(40\)"),
        ({"answers_per_query": 2, "teacher": "noisy"}, "needs several people"),
    ],
)
def test_options_that_cannot_work_are_refused(changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **changes)
