"""What an environment offers beyond gymnax's interface."""

import ast
from pathlib import Path

import gymnax
import jax
from gymnax.wrappers import LogWrapper

from envs.bandit import BanditConfig
from envs.t_maze import TMazeConfig
from memrl.environment import Hooks, hooks

LIBRARY = Path(__file__).parents[1] / "memrl"


def test_an_environment_of_gymnax_tells_nothing_more():
    environment, _ = gymnax.make("MemoryChain-bsuite")
    assert hooks(environment) == Hooks()
    assert hooks(environment).players() == {} and hooks(environment).facts(None, None, None, None) == {}


def test_what_an_environment_has_is_taken_through_wrappers_too():
    environment, params = TMazeConfig(corridors=1, length=1).make()
    _, state = environment.reset(jax.random.key(0), params)
    for wrapped in (environment, LogWrapper(environment)):
        told = hooks(wrapped)
        assert told.episodic and "success" in told.outcomes
        assert next(iter(told.players())) == "oracle"
        assert set(told.facts(state, -1, state, params)) == {"cue"}
        assert told.render(state, params).ndim == 3
    assert not hooks(BanditConfig().make()[0]).episodic


def test_no_other_place_asks_an_environment_what_it_has():
    """Each hook has one name and one default, here; so nothing in memrl looks for one by itself."""
    for path in LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
                names = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
                assert not names & set(Hooks._fields), f"{path.name}, line {node.lineno}"
