"""The configs that `--config` knows, each with the line that `--list` shows."""

from experiments.configs import gridworld
from experiments.configs.preset import Preset

CONFIGS: dict[str, Preset] = {preset.config.name: preset for preset in gridworld.PRESETS}
"""Every config by name."""
