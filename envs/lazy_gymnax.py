"""Imported before gymnax is: its own environments are imported when one is first asked for.

They bring seaborn, pandas and SciPy, to be drawn with, which take twice as long to import as JAX. Ours need no more
than gymnax's base class and spaces. Whoever imports gymnax notices nothing: what is looked up in the package and is not
there yet completes it.
"""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


def complete_later(name: str) -> ModuleType:
    """A package that can be imported from, and whose `__init__` runs when anything else is looked up in it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"There is no package {name}: pip install -r requirements.txt.", name=name)
    package, loader = importlib.util.module_from_spec(spec), spec.loader

    def complete(attribute: str) -> Any:
        if attribute.startswith("__") and attribute != "__all__":  # whoever looks through all modules asks for these
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        if importlib.util.find_spec(f"{name}.{attribute}") is not None:
            return importlib.import_module(f"{name}.{attribute}")
        vars(package).pop("__getattr__", None)
        loader.exec_module(package)
        return getattr(package, attribute)

    vars(package)["__getattr__"] = complete
    sys.modules[name] = package
    return package


if "gymnax" not in sys.modules:
    package = complete_later("gymnax")
    vars(package)["environments"] = complete_later("gymnax.environments")
