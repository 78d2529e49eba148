"""PPO on the task's own reward: sums of two digits, and a proxy with and without a price on KL.

    python benchmarks/text_tasks.py --seeds 0 1 2 3 4

Targets: at least 95 % of the sums right; on Format-v0 the proxy rises and what is wanted falls to
0 without a price on KL, and does not with one.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from common import use_one_thread, write_result

from rlhf_gym.agents.text.agent_settings import load_text_settings
from rlhf_gym.agents.text.ppo_agent import TextPPOAgent
from rlhf_gym.protocols import Signal

N_COMPLETIONS = 512
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "arithmetic": ("rlhf_gym/Arithmetic-v0", {}),
    "format": ("rlhf_gym/Format-v0", {}),
    "format_without_kl": ("rlhf_gym/Format-v0", {"ppo": {"kl_coef": 0.0}}),
}


def components(agent: TextPPOAgent, seed: int, random: bool) -> dict[str, float]:
    """Mean of every reward component over fresh completions."""
    rows = np.random.default_rng(12345).integers(len(agent.task), size=N_COMPLETIONS)
    agent.begin_round(np.random.SeedSequence(seed))
    assert agent.reference is not None
    lm = agent.reference.lm if random else agent.lm
    batch = agent._sample(rows, agent._generator, lm)
    ids, mask = batch.completion_ids.numpy(), batch.completion_mask.numpy()
    scores = agent.task.score(rows.tolist(), ids, mask)
    return {name: float(values.mean()) for name, values in scores.components.items()}


def run(name: str, seed: int) -> dict[str, Any]:
    """SFT, then PPO on the true reward for the task's usual budget."""
    env_id, overrides = JOBS[name]
    settings = load_text_settings(env_id, overrides)
    n = settings.n_completions // settings.ppo.batch_size * settings.ppo.batch_size
    agent = TextPPOAgent(env_id, n_run_steps=n, settings=settings, seed=seed)
    agent.begin_round(np.random.SeedSequence(seed))
    agent.warm_up(0)
    figures = agent.improve(Signal(source="true"), n)
    return {
        "job": name,
        "seed": seed,
        "completions": n,
        "after_sft": components(agent, seed, random=True),
        "after_ppo": components(agent, seed, random=False),
        "kl_to_ref_mean_over_the_run": figures["kl_to_ref"],
    }


def main() -> None:
    """Run all jobs and seeds, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", default="text_tasks")
    options = parser.parse_args()
    use_one_thread()
    runs = []
    for name in JOBS:
        for seed in options.seeds:
            runs.append(run(name, seed))
            print(json.dumps(runs[-1]), flush=True)
    exact = [r["after_ppo"]["exact"] for r in runs if r["job"] == "arithmetic"]
    content = {"runs": runs, "worst_exact": min(exact)}
    print(write_result(options.out, None, content, options.seeds))


if __name__ == "__main__":
    main()
