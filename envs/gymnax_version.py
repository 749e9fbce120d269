"""Imported before gymnax is: an ImportError in one sentence if it is so old that a step has five values.

Nothing else would complain before a trial ends, in the middle of what is being compiled.
"""

import importlib.metadata
import importlib.util
from pathlib import Path

OLDEST = "1.0.1"
"""As in requirements.txt."""


def problem(package: Path) -> str | None:
    """What is wrong with the gymnax in the folder `package`; None if nothing is.

    Its interface counts, since a folder on the path need not have a version.
    """
    if "def is_truncated(" in (package / "environments" / "environment.py").read_text():
        return None
    found = importlib.metadata.distributions(name="gymnax", path=[str(package.parent)])
    version = next((f"gymnax {distribution.version}" for distribution in found), "an older gymnax")
    return (
        f"{package} is {version}, but gymnax {OLDEST} or newer is needed, where the end of a task and a time limit are "
        f"two things: pip install 'gymnax>={OLDEST}', or take the older one off PYTHONPATH."
    )


_spec = importlib.util.find_spec("gymnax")
if _spec is not None and _spec.origin is not None and (_problem := problem(Path(_spec.origin).parent)):
    raise ImportError(_problem, name="gymnax")
