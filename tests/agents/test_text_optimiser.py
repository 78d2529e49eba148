"""Adam's first step, known in closed form, at one learning rate and at several."""

from __future__ import annotations

import pytest
import torch

from rlhf_gym.agents.text.optimiser import Optimiser
from rlhf_gym.errors import ConfigError


def test_adams_first_step_is_as_long_as_the_decayed_learning_rate() -> None:
    # With one gradient g both moments are corrected to g and g^2: a step of lr sign(g).
    layer = torch.nn.Linear(1, 1, bias=False)
    before = layer.weight.item()
    optimiser = Optimiser([layer], learning_rate=0.1, eps=1e-8, max_grad_norm=1.0)
    layer(torch.tensor([[2.0]])).sum().backward()
    assert optimiser.step(remaining=0.25) == pytest.approx(2.0)  # the norm before shortening
    assert layer.weight.item() == pytest.approx(before - 0.025, abs=1e-6)
    layer.weight.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter"):
        Optimiser([layer], 0.1, 1e-8, 1.0)


def test_moments_read_from_a_file_go_where_their_parameter_is() -> None:
    saved = Optimiser([torch.nn.Linear(2, 1)], 0.1, 1e-8, 1.0)
    saved.adam.param_groups[0]["params"][0].grad = torch.ones(1, 2)
    saved.step()
    tensors = saved.state_tensors()
    # No GPU is needed for it: "meta" is another device too, and Adam refuses a mixture.
    elsewhere = Optimiser([torch.nn.Linear(2, 1, device="meta")], 0.1, 1e-8, 1.0)
    elsewhere.load_state_tensors(tensors)
    state = elsewhere.adam.state[elsewhere.parameters[0]]
    assert state["exp_avg"].is_meta and state["exp_avg_sq"].is_meta
    assert not state["step"].is_meta and state["step"].item() == 1.0


def test_every_module_has_its_own_rate_and_all_decay_alike() -> None:
    modules = [torch.nn.Linear(1, 1, bias=False) for _ in range(3)]
    before = [module.weight.item() for module in modules]
    optimiser = Optimiser(modules, [0.1, 0.4, 0.1], eps=1e-8, max_grad_norm=1.0)
    sum(module(torch.ones(1, 1)).sum() for module in modules).backward()
    optimiser.step(remaining=0.25)
    moved = [b - module.weight.item() for b, module in zip(before, modules, strict=True)]
    assert moved == pytest.approx([0.025, 0.1, 0.025], abs=1e-6)


def test_a_tied_parameter_is_moved_once_at_the_first_modules_rate() -> None:
    first, second = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    second.weight = first.weight
    before = first.weight.item()
    optimiser = Optimiser([first, second], [0.1, 0.4], eps=1e-8, max_grad_norm=1.0)
    assert len(optimiser.parameters) == 1
    first(torch.ones(1, 1)).sum().backward()
    optimiser.step()
    assert first.weight.item() == pytest.approx(before - 0.1, abs=1e-6)
