"""Where people answer: a labelling session without any window, and the window that draws it.

`session` holds all logic and knows no pygame; `window` draws it and passes on keys and clicks.
"""

from __future__ import annotations

import os

# Read when pygame is first imported, hence before any module of this package does it.
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
