"""What a file of this folder is made of."""

from typing import NamedTuple

from experiments.config import Config


class Preset(NamedTuple):
    """A config under its name."""

    summary: str
    """One line: what the run is for."""
    config: Config
