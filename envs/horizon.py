"""Episodes that end before their horizon: counted, and warned of once."""

from __future__ import annotations

import warnings

__all__ = ["EarlyEnds", "HorizonWarning", "early_end_warning"]


class HorizonWarning(UserWarning):
    """An episode ended before its horizon: its length tells the agent about the task."""


def early_end_warning(env_id: str) -> str:
    """The text of the one `HorizonWarning` that is issued when an episode ends early."""
    return (
        f"An episode of {env_id} ended before its horizon. Where episodes end early, their length "
        "depends on the task and tells the agent about it past the reward model, so that results "
        "say less about the preferences than they seem to. Prefer an env of fixed horizon (many "
        "take `terminate_when_unhealthy=False`); to train on regardless and silence this warning, "
        "pass `--allow-variable-horizon` or set `allow_variable_horizon: true` in the config, in "
        "Python `allow_variable_horizon=True`."
    )


class EarlyEnds:
    """Counts the episodes that ended early, and warns of the first.

    Args:
        env_id: Named in the warning.
        horizon: Steps of a full episode; None counts every episode that no time limit ended.
        allowed: Whether they pass without the warning.
    """

    def __init__(self, env_id: str, horizon: int | None, *, allowed: bool) -> None:
        self.env_id = env_id
        self.horizon = horizon
        self.n = 0
        self._silent = allowed

    def note(self, n_steps: int, truncated: bool) -> None:
        """An episode has ended.

        Args:
            n_steps: How many steps it had.
            truncated: Whether a time limit ended it.
        """
        early = not truncated if self.horizon is None else n_steps < self.horizon
        self.n += int(early)
        if early and not self._silent:
            self._silent = True
            warnings.warn(early_end_warning(self.env_id), HorizonWarning, stacklevel=3)
