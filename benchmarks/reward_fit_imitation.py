"""The peer's side of reward_fit.py; runs in an environment of its own that has imitation 1.0.1.

Reads the pairs that reward_fit.py wrote, trains imitation's reward ensemble on them, and prints one
line of JSON. Nothing of rlhf_gym is imported here.

    ENV/bin/python reward_fit_imitation.py preferences.npz --epochs 3
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from imitation.algorithms import preference_comparisons
from imitation.data.types import TrajectoryWithRew
from imitation.rewards import reward_nets

N_MEMBERS, HIDDEN, BATCH_SIZE = 3, (32, 32), 32


def load_dataset(path: str) -> preference_comparisons.PreferenceDataset:
    with np.load(path, allow_pickle=False) as file:
        obs, actions, labels = file["obs"], file["actions"], file["preferences"]
    unused = np.zeros(actions.shape[2], np.float32)  # its labels are given, not derived

    def fragment(pair: int, side: int) -> TrajectoryWithRew:
        return TrajectoryWithRew(
            obs=obs[pair, side], acts=actions[pair, side], infos=None, terminal=False, rews=unused
        )

    dataset = preference_comparisons.PreferenceDataset()
    dataset.push([(fragment(i, 0), fragment(i, 1)) for i in range(len(labels))], labels)
    return dataset


def make_trainer(n_obs: int, n_actions: int, epochs: int) -> preference_comparisons.EnsembleTrainer:
    observation_space = spaces.Box(-np.inf, np.inf, (n_obs,))
    action_space = spaces.Box(-1.0, 1.0, (n_actions,))
    members = [
        reward_nets.BasicRewardNet(observation_space, action_space, hid_sizes=HIDDEN)
        for _ in range(N_MEMBERS)
    ]
    ensemble = reward_nets.RewardEnsemble(observation_space, action_space, members)
    trainer = preference_comparisons.EnsembleTrainer(
        preference_comparisons.PreferenceModel(ensemble),
        preference_comparisons.CrossEntropyRewardLoss(),
        rng=np.random.default_rng(0),
        batch_size=BATCH_SIZE,
        epochs=epochs,
    )
    assert len(trainer.member_trainers) == N_MEMBERS
    return trainer


@contextmanager
def watched(trainer: preference_comparisons.EnsembleTrainer) -> Iterator[list[dict[str, int]]]:
    """Note, per member, how many pairs its training went through and how many were distinct."""
    seen: list[dict[str, int]] = []
    plain = [member.train for member in trainer.member_trainers]

    def watch(member: Any, train: Any) -> None:
        def noting(dataset: Any, epoch_multiplier: float = 1.0) -> None:
            counts = {"pairs": 0, "distinct": len(set(dataset.indices))}
            seen.append(counts)
            loss = member.loss.forward

            def counting(fragment_pairs: Any, *rest: Any) -> Any:
                counts["pairs"] += len(fragment_pairs)
                return loss(fragment_pairs, *rest)

            member.loss.forward = counting
            try:
                train(dataset, epoch_multiplier=epoch_multiplier)
            finally:
                member.loss.forward = loss

        member.train = noting

    for member, train in zip(trainer.member_trainers, plain, strict=True):
        watch(member, train)
    yield seen
    for member, train in zip(trainer.member_trainers, plain, strict=True):
        member.train = train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="the .npz of reward_fit.py")
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dataset = load_dataset(args.data)
    first = dataset[0][0][0]
    trainer = make_trainer(first.obs.shape[1], first.acts.shape[1], args.epochs)

    # One epoch before the clock starts: it pays first-call costs and shows what is trained.
    with watched(trainer) as seen:
        trainer.train(dataset, epoch_multiplier=1 / args.epochs)
    assert [counts["pairs"] for counts in seen] == [len(dataset)] * N_MEMBERS, seen

    started, started_cpu = time.perf_counter(), time.process_time()
    trainer.train(dataset)
    seconds, seconds_cpu = time.perf_counter() - started, time.process_time() - started_cpu
    n_seen = len(dataset) * args.epochs
    packages = ("imitation", "torch", "stable-baselines3", "gymnasium", "numpy")
    figures = {
        # Every member sees as many pairs as there are: a pair counts once for all of them.
        "pairs_per_second": n_seen / seconds,
        "pairs_per_cpu_second": n_seen / seconds_cpu,
        "epochs": args.epochs,
        "n_members": len(seen),
        "pairs_per_member_and_epoch": [counts["pairs"] for counts in seen],
        "distinct_pairs_per_member": [counts["distinct"] for counts in seen],
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
