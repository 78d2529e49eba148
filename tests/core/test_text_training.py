"""The loop on texts: SFT, questions about pairs of completions, a reward model, PPO or DPO."""

from __future__ import annotations

import dataclasses
import hashlib
import html
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from rlhf_gym import training
from rlhf_gym.agents.text.agent_settings import TextAgentSettings
from rlhf_gym.errors import ConfigError, UnknownNameError
from rlhf_gym.feedback.settings import RewardModelSettings
from rlhf_gym.feedback.splits import heldout_mask
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.offline import evaluate_run, export_run, fit_run, watch_run
from rlhf_gym.report import write_report
from rlhf_gym.runs import Run
from rlhf_gym.text_clips import clip_text
from rlhf_gym.train_config import TrainConfig, read_run_config

SMALL = TrainConfig(
    env="rlhf_gym/Sentiment-v0",
    labels=24,
    steps=96,
    rounds=3,
    eval_episodes=16,
    final_episodes=16,
    hyperparameters={
        "n_sft_examples": 64,
        "model": {"n_layers": 1, "d_model": 16, "n_heads": 2},
        "sft": {"batch_size": 16},
        "ppo": {"batch_size": 16, "n_epochs": 1},
        "reward_model": {"n_members": 2, "max_epochs": 1},
    },
)


def with_(**changes) -> TrainConfig:
    return dataclasses.replace(SMALL, **changes)


def weights(run: Run) -> dict[str, str]:
    checkpoint = run.latest_checkpoint()
    assert checkpoint is not None
    files = sorted(checkpoint.folder.rglob("*.safetensors"))
    assert files
    return {
        str(f.relative_to(checkpoint.folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in files
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    return training.train(SMALL, tmp_path_factory.mktemp("texts") / "ppo", quiet=True)


def test_budgets_are_exact_and_the_text_figures_are_on_file(finished: Run) -> None:
    summary, metrics = json.loads(finished.summary_path.read_text()), finished.metrics()
    assert (summary["completions"], summary["n_labels"], len(metrics)) == (96, 24, 3)
    assert summary["win_rate_low"] <= summary["win_rate"] <= summary["win_rate_high"]
    assert len(summary["samples"]) == 8
    for row in metrics:
        for key in ("kl_to_ref", "entropy", "length", "distinct_2", "true_return_mean"):
            assert math.isfinite(row[key]), key
        assert row["learned_return_mean"] is not None
    assert abs(metrics[0]["kl_to_ref"]) < 0.5, "the first rollouts are close to the reference"


def test_the_parts_of_the_reward_are_on_file_with_what_they_count(finished: Run) -> None:
    summary, metrics = json.loads(finished.summary_path.read_text()), finished.metrics()
    assert summary["component_weights"] == {"sentiment": 1.0, "positive": 0.0}
    assert summary["kl_coef"] == 0.4  # of agents/text.yml
    for row in (*metrics, summary):
        # One part is paid, once: its mean is the return's. Of the other, 1, 0.5 or 0 by sign.
        assert row["component_sentiment"] == pytest.approx(row["true_return_mean"], abs=1e-6)
        assert 0 <= row["component_positive"] <= 1
        assert row["kl_evaluated"] >= 0
    reference = summary["reference"]
    assert reference["component_sentiment"] == pytest.approx(
        reference["random_return_mean"], abs=1e-6
    )


def test_fine_tuning_has_seconds_of_its_own(finished: Run) -> None:
    summary, metrics = json.loads(finished.summary_path.read_text()), finished.metrics()
    assert summary["seconds"]["sft"] == metrics[0]["seconds_sft"] > 0
    assert "collect" not in summary["seconds"] and "seconds_sft" not in metrics[1]


def test_calibration_counts_the_answers_that_the_last_fit_held_out(finished: Run) -> None:
    bins = json.loads(finished.summary_path.read_text())["calibration"]["bins"]
    with PreferenceStore(finished.store_folder) as store:
        answers = store.preferences().trained()
    # Whole prompts are held out, by the hash of each prompt's context.
    prompts = [answer.query.clips[0].context_id for answer in answers]
    n_heldout = int(heldout_mask(prompts, 0.1).sum())
    assert 0 < n_heldout < 24 and sum(entry["n"] for entry in bins) == n_heldout


def test_the_pairs_are_completions_of_one_prompt_with_their_true_rewards(finished: Run) -> None:
    with PreferenceStore(finished.store_folder) as store:
        ids = [record.query_id for record in store.answer_records()]
        queries = store.queries(ids)
        gaps = store.return_gaps()
    assert len(queries) == 24
    for query in queries:
        (prompt, one), (other_prompt, other) = (clip_text(clip) for clip in query.clips)
        assert prompt == other_prompt and one != other
        assert -2.0 <= gaps[query.id] <= 2.0  # two sentiments, each within [-1, 1]


def test_a_resumed_run_ends_with_the_same_weights(finished: Run, tmp_path, stopped_after) -> None:
    folder = tmp_path / "stopped"
    with stopped_after(1):
        training.train(SMALL, folder, quiet=True)
    resumed = training.resume(folder, quiet=True)
    assert weights(resumed) == weights(finished)


def test_recorded_answers_lead_to_the_same_weights(finished: Run, tmp_path: Path) -> None:
    config = read_run_config(finished)
    config = dataclasses.replace(config, teacher=f"replay:{finished.folder}")
    assert weights(training.train(config, tmp_path / "replay", quiet=True)) == weights(finished)


def test_dpo_needs_no_reward_model(tmp_path: Path) -> None:
    run = training.train(
        with_(algo="dpo", hyperparameters={**SMALL.hyperparameters, "dpo": {"batch_size": 16}}),
        tmp_path / "dpo",
        quiet=True,
    )
    checkpoint = run.latest_checkpoint()
    assert checkpoint is not None and not (checkpoint.folder / "reward_model.safetensors").exists()
    assert [row["completions"] for row in run.metrics()] == [32, 64, 96]
    assert all(math.isfinite(row["dpo_loss"]) for row in run.metrics())
    with pytest.raises(ConfigError, match="learns without a reward model"):
        fit_run(run.folder, "cpu", None)


def test_what_direct_methods_cannot_learn_from_is_refused_before_fine_tuning(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=r"`--algo dpo` learns from answers.*`--algo ppo`"):
        training.train(with_(algo="dpo", reward="true"), tmp_path / "dpo", quiet=True)
    one = {**SMALL.hyperparameters, "reward_model": {"n_members": 1}}
    with pytest.raises(ConfigError, match="at least 2 members, found 1"):
        training.train(
            with_(acquisition="disagreement", hyperparameters=one), tmp_path / "one", quiet=True
        )
    assert not list(tmp_path.iterdir())


def test_without_fine_tuning_the_mix_is_of_many_examples_all_the_same(tmp_path: Path) -> None:
    ppo = {**SMALL.hyperparameters["ppo"], "ptx_coef": 0.1}
    config = with_(hyperparameters={**SMALL.hyperparameters, "n_sft_examples": 0, "ppo": ppo})
    agent = training.build_agent(training.prepare(config))
    agent.begin_round(np.random.SeedSequence(0))
    agent.warm_up(0)
    assert len(agent.trainer.ptx) == TextAgentSettings().n_sft_examples


def test_the_corpus_may_be_kept_up_while_ppo_trains(finished: Run, tmp_path: Path) -> None:
    ppo = {**SMALL.hyperparameters["ppo"], "ptx_coef": 50.0}
    config = with_(hyperparameters={**SMALL.hyperparameters, "ppo": ppo})
    run = training.train(config, tmp_path / "ptx", quiet=True)
    assert weights(run) != weights(finished), "the mix takes part in every step"


def test_the_true_reward_is_the_yardstick_on_texts_too(tmp_path: Path) -> None:
    run = training.train(with_(reward="true"), tmp_path / "true", quiet=True)
    with PreferenceStore(run.store_folder) as store:
        assert store.counts()["n_queries"] == 0


def test_the_report_shows_the_frontier_and_samples(finished: Run) -> None:
    page = write_report(finished.folder).read_text()
    sample = json.loads(finished.summary_path.read_text())["samples"][0]
    for text in ("True reward against KL", "Length and variety", "after SFT", "completions"):
        assert text in page
    for text in ("only watched", "Calibration", "Price of one nat of KL", "win rate"):
        assert text in page
    assert "episode" not in page.partition("<h2>Run it again")[0]
    assert html.escape(sample["prompt"]) in page and html.escape(sample["after"]) in page
    assert "random actions" not in page and "env steps" not in page


def test_evaluate_and_fit_read_a_finished_run(finished: Run) -> None:
    figures = evaluate_run(finished.folder, 8, seed=1)
    assert len(figures["returns"]) == 8 and all(-1 <= r <= 1 for r in figures["returns"])
    assert fit_run(finished.folder, "cpu", None)["n_train"] > 0


def test_fit_starts_from_what_sft_left_not_from_the_trained_policy(tmp_path: Path) -> None:
    """With steps that are too small to move a weight, the fit leaves what it started from."""
    still = {**SMALL.hyperparameters["reward_model"], "learning_rate": 1e-12}
    config = with_(
        labels=8,
        steps=32,
        rounds=1,
        hyperparameters={**SMALL.hyperparameters, "reward_model": still},
    )
    run = training.train(config, tmp_path / "run", quiet=True)
    fit_run(run.folder, "cpu", tmp_path / "fitted")
    trunk = load_file(tmp_path / "fitted" / "reward_model.safetensors")
    checkpoint = run.latest_checkpoint()
    assert checkpoint is not None
    differs = {
        name: max(
            np.abs(value - trunk[key.replace("model.", "net.trunk.", 1)]).max()
            for key, value in load_file(checkpoint.folder / name / "model.safetensors").items()
            if key.startswith("model.")
        )
        for name in ("reference", "model")
    }
    # float32 weights of order 1 and steps of 1e-12 each: nothing but the policy's own training.
    assert differs["reference"] < 1e-9 and differs["model"] > 1e-4


def test_watch_prints_completions_and_films_none(finished: Run, tmp_path, capsys) -> None:
    watch_run(finished.folder, None, 3, seed=0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(" | " in line and "TRUE reward" in line for line in lines)
    with pytest.raises(ConfigError, match="films robots"):
        watch_run(finished.folder, tmp_path / "a.gif", 1, seed=0)
    with pytest.raises(ConfigError, match="export --sb3` needs an agent with `export_sb3`"):
        export_run(finished.folder, tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 8}, "`steps` is 8 completions, fewer than one rollout of 16"),
        ({"steps": 8, "algo": "dpo"}, "`steps` is 8 pairs, fewer than one batch of"),
        ({"algo": "dqo"}, "Did you mean 'dpo'.*Accepted: dpo, ppo, or your own"),
        ({"hyperparameters": {"ppo": {"batch": 4}}}, "unknown option `batch`"),
        ({"hyperparameters": {"n_sft_examples": -1}}, "`n_sft_examples` is -1"),
        ({"hyperparameters": {"num_layers_unfrozen": 0}}, "`num_layers_unfrozen` is 0"),
        ({"steps": 6400, "hyperparameters": {"num_layers_unfrozen": 9}}, "has 2 blocks"),
        ({"hyperparameters": {"ppo": {"kl_target": 6, "kl_coef": 0}}}, "start above 0"),
        ({"hyperparameters": {"reward_model": {"max_prompt_tokens": 9}}}, "follow from the task"),
        ({"hyperparameters": {"reward_model": {"lr": 0.1}}}, "unknown option `lr`"),
        ({"hyperparameters": {"reward_model": {"n_members": "three"}}}, "n_members is 'three'"),
        ({"horizon": 5, "clip_length": 5}, "--horizon, --clip-length: of no effect"),
        ({"ensemble": RewardModelSettings(n_members=2)}, "--ensemble .*: of no effect"),
        ({"algo": "dpo", "acquisition": "entropy"}, "learns without one; use `uniform`"),
    ],
)
def test_options_that_cannot_work_are_refused(tmp_path, changes, message) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        training.train(with_(**changes), tmp_path / "never", quiet=True)
    assert not (tmp_path / "never").exists()


def test_a_model_that_cannot_be_sampled_as_trained_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = LlamaForCausalLM.forward

    def looks_ahead(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = stock(self, *args, **kwargs)
        output.logits = output.logits + 50 * output.logits.mean(1, keepdim=True)
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", looks_ahead)
    with pytest.raises(ConfigError, match="LlamaForCausalLM would be trained on another"):
        training.train(SMALL, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
