"""What a file of this folder is made of."""

from typing import NamedTuple, TypedDict

from experiments.config import Config


class Preset(NamedTuple):
    """A config under its name."""

    summary: str
    """One line: what the run is for."""
    config: Config


class TransformerSizes(TypedDict):
    """What several memories made of transformers have in common."""

    features: int
    layers: int
    heads: int
    mlp_features: int


class SegmentSizes(TypedDict):
    """What several memories that summarise segments have in common."""

    segment_length: int
    summary_tokens: int
