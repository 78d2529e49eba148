from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from rlhf_gym.cli import main
from rlhf_gym.errors import MissingDependencyError

SMALL = [
    "--env", "rlhf_gym/PointMass-v0", "--labels", "20", "--steps", "1600", "--rounds", "2",
    "--clip-length", "10", "--eval-episodes", "1", "--final-episodes", "2",
    "--ensemble.hidden", "8", "--ensemble.fit.max-epochs", "2",
]  # fmt: skip
HYPERPARAMETERS = "hyperparameters: {n_envs: 2, n_steps: 100, batch_size: 100, n_epochs: 1}\n"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "options.yaml").write_text(HYPERPARAMETERS + "seed: 3\nlabels: 99\n")
    flags = ["--config", str(folder / "options.yaml"), "--hyperparameters", "ent_coef=1e-3"]
    main(["train", *SMALL, *flags, "--out", str(folder / "run")])
    return folder / "run"


def test_train_writes_the_run_folder_and_flags_win_over_the_file(run_folder: Path) -> None:
    summary = json.loads((run_folder / "summary.json").read_text())
    assert summary["seed"] == 3, "from the file"
    assert summary["n_labels"] == 20, "the flag, not the file's 99"
    settings = yaml.safe_load((run_folder / "config.yaml").read_text())["hyperparameters"]
    assert (settings["n_envs"], settings["ent_coef"]) == (2, 0.001), "the file's, and the flag's"
    for name in ("config.yaml", "provenance.json", "preferences.db", "metrics.jsonl"):
        assert (run_folder / name).stat().st_size > 0
    assert (run_folder / "clips/round-0000/states.npy").is_file()
    assert any((run_folder / "tb").iterdir())
    assert "<html" in (run_folder / "report.html").read_text()


def test_evaluate_prints_one_json_object(run_folder: Path, capsys) -> None:
    main(["evaluate", str(run_folder), "--episodes", "3", "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == {"true_return_mean", "true_return_std", "n_episodes", "returns"}
    assert len(figures["returns"]) == 3


def test_fit_report_envs_and_watch_work_on_a_run(run_folder: Path, tmp_path, capsys) -> None:
    main(["fit", str(run_folder)])
    assert "accuracy_heldout" in capsys.readouterr().out
    (run_folder / "report.html").unlink()
    main(["report", str(run_folder)])
    assert (run_folder / "report.html").is_file()
    main(["envs"])
    assert "rlhf_gym/HalfCheetah-v0" in capsys.readouterr().out
    main(["watch", str(run_folder), "--video", str(tmp_path / "a.gif")])
    assert (tmp_path / "a.gif").read_bytes().startswith(b"GIF8")
    assert "return" in capsys.readouterr().out


def test_a_finished_run_resumes_to_itself(run_folder: Path) -> None:
    before = json.loads((run_folder / "summary.json").read_text())
    main(["train", "--resume", str(run_folder)])
    after = json.loads((run_folder / "summary.json").read_text())
    assert after["evaluation_returns"] == before["evaluation_returns"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--env", "rlhf_gym/PointMas-v0"], "PointMass-v0"),
        (["train", "--env", "no_such_module:Robot-v0"], "no_such_module"),
        (["train", "--labels", "0"], "--labels"),
        (["train", "--steps", "-5"], "--steps"),
        (["train", "--config", "/no/such.yaml"], "/no/such.yaml"),
        (["train", "--resume", "/no/such/run"], "/no/such/run"),
        (["train", "--resume", "a", "--out", "b"], "--out"),
        (["train", "--resume", "a", "--steps", "5"], "and all other options"),
        (["train", "--resume", "a", "--hyperparameters", "n_envs=2"], "and all other options"),
        (["train", "--hyperparameters", "ppo.kl_coef"], "write `name=value`"),
        (["train", "--hyperparameters", "n_env=2"], "argument 'n_env'"),
        (["evaluate", "/no/such/run"], "/no/such/run"),
        (["report", "/no/such/run"], "/no/such/run"),
        (["train", "--device", "cuda:7x"], "cuda:7x"),
    ],
)
def test_a_mistake_ends_with_status_2_and_one_message(arguments, message, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error and "Traceback" not in error


def test_an_own_part_is_found_in_the_working_directory(tmp_path, monkeypatch) -> None:
    (tmp_path / "lazy_teacher.py").write_text(
        "from rlhf_gym import Choice, Preference\n"
        "class Lazy:\n"
        "    name = 'lazy'\n"
        "    def answer(self, queries):\n"
        "        return [Preference(q, Choice.TIE, self.name) for q in queries]\n"
    )
    (tmp_path / "options.yaml").write_text(HYPERPARAMETERS)
    monkeypatch.chdir(tmp_path)
    arguments = [*SMALL, "--config", "options.yaml", "--teacher", "lazy_teacher:Lazy"]
    main(["train", *arguments, "--out", "run"])
    assert json.loads((tmp_path / "run/summary.json").read_text())["n_labels"] == 20


def test_how_long_to_wait_may_change_on_resuming(run_folder: Path, monkeypatch, capsys) -> None:
    from rlhf_gym import training

    seen: list[dict[str, object]] = []
    resume = training.resume
    monkeypatch.setattr(
        training, "resume", lambda folder, **how: seen.append(how) or resume(folder, **how)
    )
    main(["train", "--resume", str(run_folder), "--no-wait", "--label-slack", "0.9"])
    main(["train", "--resume", str(run_folder)])
    plain = {"trust": False}
    assert seen == [{**plain, "wait": False, "label_slack": 0.9}, plain]


def test_ctrl_c_says_how_to_resume_this_run(monkeypatch, capsys, tmp_path) -> None:
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlhf_gym.training.run_rounds", interrupt)
    (tmp_path / "options.yaml").write_text(HYPERPARAMETERS)
    options = ["--config", str(tmp_path / "options.yaml")]
    with pytest.raises(SystemExit) as stop:
        main(["train", *SMALL, *options, "--out", str(tmp_path / "run")])
    assert stop.value.code == 130
    assert f"rlhf-gym train --resume {tmp_path / 'run'}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(tmp_path / "run")])  # the interrupt comes again


def test_an_env_that_draws_itself_is_filmed_without_opengl(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nothing_works(**_: object) -> None:
        raise MissingDependencyError("no renderer works")

    monkeypatch.setattr("rlhf_gym.gl.choose_gl", nothing_works)
    main(["watch", str(run_folder), "--video", str(tmp_path / "a.gif")])
    assert (tmp_path / "a.gif").stat().st_size > 0
