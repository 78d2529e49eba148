"""Stable-Baselines3's PPO from a task's settings, with one clear error where they cannot work."""

from __future__ import annotations

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from rlhf_gym.agents.settings import AgentSettings
from rlhf_gym.device import resolve_device
from rlhf_gym.errors import ConfigError

__all__ = ["make_ppo"]


def make_ppo(env_id: str, env: VecEnv, settings: AgentSettings, seed: int, device: str) -> PPO:
    """A new PPO, as `PPO(...)` with the settings' keyword arguments makes it.

    Args:
        env_id: Named by the error.
        env: What it acts in.
        settings: Policy and hyper-parameters.
        seed: Draws the weights; SB3 seeds torch, numpy and the envs with it.
        device: "auto", "cpu" or a CUDA device; auto keeps small networks on the CPU.

    Raises:
        ConfigError: SB3 does not accept the settings for this env, or there is no such device.
    """
    kind = "large" if "Cnn" in settings.policy else "mlp"
    place = resolve_device(device, kind)  # type: ignore[arg-type]  # a Literal of it
    try:
        return PPO(settings.policy, env, seed=seed, device=place, **settings.algorithm)
    except (TypeError, ValueError, AssertionError, LookupError, AttributeError) as error:
        raise ConfigError(
            f"PPO does not accept these settings for {env_id}: {error}; compare them with "
            "agents/ppo.yml."
        ) from error
