"""The configs that `--config` knows, each with the line that `--list` shows."""

from experiments.configs import diagnostics, gridworld, hcam_tasks, navigation, rewriting
from experiments.configs.preset import Preset

CONFIGS: dict[str, Preset] = {
    preset.config.name: preset
    for family in (gridworld, rewriting, diagnostics, hcam_tasks, navigation)
    for preset in family.PRESETS
}
"""Every config by name."""
