"""An agent as stock Stable-Baselines3 files, which act alike on the stock env."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from rlhf_gym.agents.scaled_actions import ActionScale
from rlhf_gym.data import Array
from rlhf_gym.errors import ConfigError

__all__ = ["export_sb3", "rescale_policy"]

# Where a box is a single point, the deviation that stands for none: its logarithm is finite.
_NO_WIDTH = 1e-8


def export_sb3(
    model: PPO,
    normaliser: VecNormalize | None,
    path: Path,
    *,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    scale: ActionScale | None,
) -> list[Path]:
    """Write `path` (a zip) and, with a normaliser, `<stem>_vecnormalize.pkl` beside it.

    A policy that acts in [-1, 1] is rewritten to act in the env's units: SB3's own clipping to the
    box then does what clipping to [-1, 1] did. Its distribution is the same one, its optimiser goes
    on where it was.

    Args:
        model: The trained model; left as it is.
        normaliser: Its VecNormalize, or None.
        path: The zip.
        observation_space: The stock env's, which SB3 compares on loading.
        action_space: Likewise.
        scale: How the model's actions become the env's; None if they are the env's.

    Raises:
        ConfigError: the policy's noise cannot be written in the env's units.
    """
    stock: Any = copy.copy(model)  # with the same policy, which torch does not copy mid-training
    stock.observation_space, stock.action_space = observation_space, action_space
    parts: tuple[Any, ...] = (model.policy, model.policy.optimizer)
    states = [copy.deepcopy(part.state_dict()) for part in parts]
    try:
        if scale is not None:
            rescale_policy(model.policy, scale.center, scale.half_width)
        stock.save(path)
    finally:
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)
    if normaliser is None:
        return [path]
    statistics: Any = copy.copy(normaliser)  # as it is pickled: without its env,
    statistics.set_venv(normaliser.venv)  # which pickling it again asks for
    statistics.observation_space, statistics.action_space = observation_space, action_space
    written = path.with_name(f"{path.stem}_vecnormalize.pkl")
    statistics.save(str(written))
    return [path, written]


def rescale_policy(policy: Any, center: Array, half_width: Array) -> None:
    """Make a policy's actions `center + half_width * action`, in distribution, in place.

    A policy that squashes its actions (gSDE with `squash_output`) scales them to its box itself.

    Args:
        policy: An `ActorCriticPolicy` with a Box of actions.
        center: (A...) new action for what was 0.
        half_width: (A...) at least 0, what becomes of 1.

    Raises:
        ConfigError: gSDE whose noise has no deviation for each action.
    """
    if policy.squash_output:
        return
    width = torch.as_tensor(half_width.reshape(-1), dtype=torch.float64)  # (A,)
    layer, log_std = policy.action_net, policy.log_std
    if policy.use_sde and (log_std.shape[-1] != len(width) or policy.dist_kwargs["use_expln"]):
        raise ConfigError(
            "gSDE with `full_std: false` or `use_expln: true` has noise that cannot be written in "
            "the units of this env's actions; train without these, or wrap the env in "
            "gymnasium.wrappers.RescaleAction(env, -1, 1)."
        )
    moments = policy.optimizer.state
    with torch.no_grad():
        for tensor, factor in ((layer.weight, width[:, None]), (layer.bias, width)):
            tensor.copy_(tensor * factor)
            # A gradient by what is `width` times as large is 1 / width of what it was.
            inverse = 1 / factor.clamp(min=_NO_WIDTH)
            for name, power in (("exp_avg", 1), ("exp_avg_sq", 2)):
                if name in moments.get(tensor, {}):
                    moments[tensor][name].mul_(inverse**power)
        layer.bias.add_(torch.as_tensor(center.reshape(-1)))
        log_std.add_(torch.log(width.clamp(min=_NO_WIDTH)))
