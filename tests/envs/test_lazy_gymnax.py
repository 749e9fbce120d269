"""gymnax's own environments are imported when one is first asked for, and whoever imports gymnax notices nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def in_a_process_of_its_own(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_our_environments_do_without_what_gymnax_draws_with():
    in_a_process_of_its_own(
        "import sys, envs\n"
        "assert envs.get('t_maze')().make()\n"
        "for name in ('seaborn', 'pandas', 'scipy', 'matplotlib', 'gymnax.registration'):\n"
        "    assert name not in sys.modules, name\n"
    )


@pytest.mark.parametrize(
    "code",
    [
        # A class that was there before is that of the environments that come later; so are the modules.
        "import gymnax, inspect\n"
        "assert inspect.getmodule(type(sys)) and 'gymnax.registration' not in sys.modules\n"
        "assert gymnax.environments.spaces is spaces and gymnax.environments.environment is environment\n"
        "assert isinstance(gymnax.make('CartPole-v1')[0], environment.Environment)\n"
        "assert issubclass(gymnax.environments.Pong, environment.Environment) and 'seaborn' in sys.modules\n"
        "assert gymnax.__all__ and not hasattr(gymnax, 'nothing')\n"
        "assert gymnax.environments.misc.pong.Pong is gymnax.environments.Pong",
        "from gymnax import *\nassert make('CartPole-v1') and register",
        "from gymnax.environments.misc import pong\nfrom gymnax import make\nassert pong.Pong and make('Pong-misc')",
        "assert envs.get('gymnax:CartPole-v1')().make()",
    ],
)
def test_gymnax_is_as_it_always_is(code):
    in_a_process_of_its_own(f"import sys, envs\nfrom gymnax.environments import environment, spaces\n{code}\n")


def test_gymnax_that_is_imported_before_is_left_alone():
    in_a_process_of_its_own("import gymnax\nmake = gymnax.make\nimport envs, gymnax\nassert gymnax.make is make\n")
