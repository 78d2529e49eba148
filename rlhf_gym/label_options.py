"""Every option of a labelling sitting, with its one text; read without loading anything heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlhf_gym.errors import ConfigError

__all__ = ["LabelOptions"]


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """How one person labels."""

    labeller: str = "me"
    """A pseudonym; several people on one store each take their own."""
    terminal: bool = False
    """Pairs of texts in the terminal, for instance over SSH, instead of a window."""
    practice: int = 0
    """Practice pairs with feedback before the first real one; 10 are usual. Needs gold pairs."""
    qualification: int = 0
    """Known pairs to answer after that, 80 % of them right; 20 are usual. Needs gold pairs."""
    gold: float = 0.0
    """Mark this share of the pairs, those with the clearest difference in true return, as gold: for
    tasks whose true reward is what you judge by."""
    gold_share: float = 0.05
    """Share of the questions whose right answer is known, in [0, 0.5]."""
    repeat_share: float = 0.05
    """Share that shows an answered pair again, sides swapped, in [0, 0.5]."""
    rubric: Path | None = None
    """A Markdown file that says what to judge by; default: rubric.md in the folder, if it is there,
    else the shipped task's own."""
    keys: Path | None = None
    """A YAML file of keys, see docs/labelling.md."""
    font: Path | None = None
    """A .ttf or .otf file for texts in scripts that the window's own font lacks."""
    env: str | None = None
    """The env that draws the clips and whose rubric is shown; default: the run's, or what the clips
    name."""
    trust: bool = False
    """Run the modules that the run's config.yaml, or its clips, name, though it was not made here;
    see docs/trust.md."""
    pixels: int = 480
    """Height and width of the pictures of a robot, 64 to 1024."""

    def __post_init__(self) -> None:
        if not 0 <= self.gold <= 1:
            raise ConfigError(f"`gold` is {self.gold} (--gold), expected a share from 0 to 1.")
        if not 64 <= self.pixels <= 1024:
            raise ConfigError(f"`pixels` is {self.pixels}, expected 64 to 1024.")
