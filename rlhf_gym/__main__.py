"""`python -m rlhf_gym` is `rlhf-gym`."""

from __future__ import annotations

from rlhf_gym.cli import main

if __name__ == "__main__":
    main()
