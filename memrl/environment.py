"""What an environment may offer beyond gymnax's interface, and the defaults where it does not.

memrl knows environments through the interface of gymnax 1.0 alone. `hooks` gives what else an environment may have,
with a default for everything that it leaves out. Two kinds of entries of the `info` that a step returns count as well:
what `Hooks.outcomes` names, and, where trials are made of attempts, `soft_reset`, bool: the step ended one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax


class Player(Protocol):
    """A reference player, for one environment: two pure functions."""

    @property
    def initial_state(self) -> Callable[[Any], Any]:
        """`initial_state(env_params) -> player_state`: what the player remembers as a trial begins."""
        ...

    @property
    def act(self) -> Callable[[jax.Array, Any, Any, Any], tuple[Any, jax.Array]]:
        """`act(key, player_state, environment_state, env_params) -> (player_state, action)`, once per step."""
        ...


def no_facts(before: Any, action: jax.Array, state: Any, params: Any) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The `facts` of an environment that has none."""
    return {}


class Hooks(NamedTuple):
    """What an environment may have by these names: attributes or methods. The defaults hold for those it lacks."""

    episodic: bool = False
    """Whether episodes end by the task. If not, a trial is `max_steps_in_episode` steps, whatever happens."""
    outcomes: tuple[str, ...] = ()
    """Entries of `info`, bool or float, that say how it went, in the last step of an episode or of an attempt."""
    players: Callable[[], dict[str, Player]] = dict
    """Reference players by name, the best one first."""
    facts: Callable[[Any, jax.Array, Any, Any], dict[str, tuple[jax.Array, jax.Array]]] = no_facts
    """`facts(before, action, state, params)`: by name, what is to be remembered in this state (int32 from 0 on), and
    whether the step that led from `before` by `action` to it showed it (bool)."""
    render: Callable[[Any, Any], Any] | None = None
    """`render(state, params)`: a picture, uint8 `[H, W, 3]`; None: it cannot be drawn."""


def hooks(environment: Any) -> Hooks:
    """The hooks of an environment, which may be wrapped."""
    return Hooks(**{name: getattr(environment, name) for name in Hooks._fields if hasattr(environment, name)})
