"""The exceptions that rlhf_gym raises on purpose.

Each derives from `RlhfGymError` and from the builtin it refines, so that both
`except RlhfGymError` and `except ValueError` work::

    RlhfGymError
    ├── ConfigError (ValueError)          an option, setting or combination that cannot work
    │   └── CannotDrawError (ValueError)  an env without the render mode asked for
    ├── DataError (ValueError)            an array or record that breaks its own rules
    │   └── CorruptDataError              a stored file that is damaged, truncated or not ours
    ├── SchemaError (RuntimeError)        a store or checkpoint from another version
    ├── RunExistsError (FileExistsError)  the run folder is already there
    ├── RunLockedError (RuntimeError)     another process trains on this run
    ├── UnknownNameError (LookupError)    an id or name nobody registered
    ├── UntrustedError (RuntimeError)     somebody else's folder, which asks for code to be run
    ├── MissingDependencyError (ImportError)  an optional package that is not installed
    ├── NotHiddenError (RuntimeError)     an env whose true reward would reach the learner
    └── NumericalError (ArithmeticError)  NaN or infinity where a finite number must stand

A message says what is wrong, the value found, what is accepted and what to do.
"""

from __future__ import annotations

__all__ = [
    "CannotDrawError",
    "ConfigError",
    "CorruptDataError",
    "DataError",
    "MissingDependencyError",
    "NotHiddenError",
    "NumericalError",
    "RlhfGymError",
    "RunExistsError",
    "RunLockedError",
    "SchemaError",
    "UnknownNameError",
    "UntrustedError",
]


class RlhfGymError(Exception):
    """Base of everything rlhf_gym raises on purpose."""


class ConfigError(RlhfGymError, ValueError):
    """An option, a setting, or a combination of them that cannot work."""


class CannotDrawError(ConfigError):
    """An env that has not the render mode asked for; it trains all the same."""


class DataError(RlhfGymError, ValueError):
    """An array or record that breaks its own rules: shape, range, finiteness."""


class CorruptDataError(DataError):
    """A stored file that is damaged, truncated, or not one of ours."""


class SchemaError(RlhfGymError, RuntimeError):
    """A store or checkpoint written by another version of rlhf_gym."""


class RunExistsError(RlhfGymError, FileExistsError):
    """The run folder is already there; nothing in it was touched."""


class RunLockedError(RlhfGymError, RuntimeError):
    """Another process is training on this run."""


class UnknownNameError(RlhfGymError, LookupError):
    """An id or a name that nobody registered."""


class UntrustedError(RlhfGymError, RuntimeError):
    """A folder that somebody else made asks for code to be run; none of it was."""


class MissingDependencyError(RlhfGymError, ImportError):
    """An optional package that is not installed; the message names the command."""


class NotHiddenError(RlhfGymError, RuntimeError):
    """An env without `hide_reward`: its true reward would reach the learner."""


class NumericalError(RlhfGymError, ArithmeticError):
    """NaN or infinity where a finite number must stand; the message names the component."""
