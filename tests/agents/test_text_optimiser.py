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


def test_a_bfloat16_weight_moves_by_steps_too_small_for_it() -> None:
    # With a constant gradient each of Adam's steps is the learning rate long: 5,000 of 1e-6 are
    # 0.005. Next below 1, bfloat16 has steps of 2^-8 = 0.0039.
    layer = torch.nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    torch.nn.init.ones_(layer.weight)
    optimiser = Optimiser([layer], learning_rate=1e-6, eps=1e-12, max_grad_norm=1.0)
    for _ in range(5000):
        layer.weight.grad = torch.ones_like(layer.weight)
        optimiser.step()
    (master,) = optimiser.masters
    # float32's steps there are 6e-8: a step of 1e-6 is rounded by up to 3 %, of 0.005 altogether.
    assert master.item() == pytest.approx(0.995, abs=1.5e-4)
    assert layer.weight.item() == torch.tensor(0.995).bfloat16().item() == 1 - 2**-8
    assert all(optimiser.adam.state[master][n].dtype == torch.float32 for n in ("exp_avg_sq",))


def test_float32_parameters_are_their_own_masters() -> None:
    layer = torch.nn.Linear(2, 1)
    optimiser = Optimiser([layer], 0.1, 1e-8, 1.0)
    assert all(m is p for m, p in zip(optimiser.masters, layer.parameters(), strict=True))
    layer(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    assert {name.split(".")[1] for name in optimiser.state_tensors()} == {
        "exp_avg",
        "exp_avg_sq",
        "step",
    }


def test_what_somebody_writes_into_a_rounded_weight_counts() -> None:
    layer = torch.nn.Linear(2, 1, bias=False, dtype=torch.bfloat16)
    optimiser = Optimiser([layer], 1e-6, 1e-8, 1.0)
    torch.nn.init.ones_(layer.weight)
    with torch.no_grad():
        optimiser.masters[0].copy_(torch.tensor([[1.0001, 1.0001]]))  # rounds to 1
        layer.weight[0, 1] = 3.0
    layer.weight.grad = torch.ones_like(layer.weight)
    optimiser.step(remaining=0.0)
    assert optimiser.masters[0][0].tolist() == pytest.approx([1.0001, 3.0], abs=1e-6)


def _trained(steps: int, optimiser: Optimiser, layer: torch.nn.Linear) -> None:
    generator = torch.Generator().manual_seed(steps)
    for _ in range(steps):
        layer.weight.grad = torch.randn(layer.weight.shape, generator=generator).bfloat16()
        optimiser.step()


def _half(seed: int = 0) -> tuple[Optimiser, torch.nn.Linear]:
    layer = torch.nn.Linear(16, 16, bias=False, dtype=torch.bfloat16)
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(seed))
    return Optimiser([layer], 1e-5, 1e-8, 1.0), layer


def test_masters_go_on_bit_for_bit_from_what_was_saved() -> None:
    straight, layer = _half()
    _trained(30, straight, layer)
    saved = {name: t.clone() for name, t in straight.state_tensors().items()}
    weight = layer.weight.detach().clone()
    _trained(7, straight, layer)
    resumed, again = _half(seed=1)
    _trained(3, resumed, again)  # whatever it was before
    with torch.no_grad():
        again.weight.copy_(weight)
    resumed.load_state_tensors(saved)
    _trained(7, resumed, again)
    assert torch.equal(again.weight, layer.weight)
    assert torch.equal(resumed.masters[0], straight.masters[0])
    assert bool((straight.masters[0] != layer.weight).any())


def test_a_state_of_another_precision_is_refused() -> None:
    half, layer = _half()
    _trained(1, half, layer)
    single = Optimiser([torch.nn.Linear(16, 16, bias=False)], 1e-5, 1e-8, 1.0)
    with pytest.raises(ConfigError, match="masters of 1 parameters, this model needs 0"):
        single.load_state_tensors(half.state_tensors())
    single.adam.param_groups[0]["params"][0].grad = torch.ones(16, 16)
    single.step()
    with pytest.raises(ConfigError, match="masters of 0 parameters, this model needs 1"):
        half.load_state_tensors(single.state_tensors())


def test_float16_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"`weight` is torch\.float16.*torch\.bfloat16"):
        Optimiser([torch.nn.Linear(1, 1, bias=False, dtype=torch.float16)], 0.1, 1e-8, 1.0)
