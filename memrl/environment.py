"""What memrl asks of an environment beyond gymnax's interface."""

from typing import Any


def is_episodic(environment: Any) -> bool:
    """Whether episodes end by the task, as the environment says; if not, a trial is a fixed number of steps."""
    return getattr(environment, "episodic", False)
