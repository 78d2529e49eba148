"""Which devices are taken, and what is said of the others."""

from __future__ import annotations

import pytest
import torch

from rlhf_gym.device import resolve_device
from rlhf_gym.errors import ConfigError


@pytest.mark.parametrize("device", ["mps", "xpu", "meta", "cpu:3", "gpu", "cuda:-1", ""])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(ConfigError, match="accepted are auto, cpu, cuda, cuda:N"):
        resolve_device(device, "large")


def test_small_networks_stay_on_the_cpu_and_large_ones_take_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [resolve_device("auto", kind) for kind in ("mlp", "large")] == ["cpu", "cuda"]
    assert [resolve_device(d, "mlp") for d in ("cpu", "cuda", "cuda:1")] == [
        "cpu",
        "cuda",
        "cuda:1",
    ]
    with pytest.raises(ConfigError, match="there are 2 GPUs"):
        resolve_device("cuda:2", "large")


def test_cuda_without_a_gpu_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto", "large") == "cpu"
    with pytest.raises(ConfigError, match="finds no GPU"):
        resolve_device("cuda", "mlp")
