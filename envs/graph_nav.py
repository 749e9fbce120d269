"""GraphNav: find the way in a neighbourhood never seen before, and find it faster each time.

A trial takes place in a small network of streets, drawn anew. The agent stands at a corner and looks along one of the
streets that leave it. It sees a symbol for exactly that, corner and direction, and the symbol of where to collect; the
next goal is drawn at once, and the way to it begins there. Symbols are dealt anew for each trial: how places are
connected is known only from having been there.

This is One-Shot StreetLearn of "Rapid Task-Solving in Novel Environments" (arXiv 2006.03662), on which HCAM (arXiv
2105.14039) was tested too, with streets drawn at random in place of those of a city, which need data. The rules are
those of the code published with it
(https://github.com/google-deepmind/deepmind-research/tree/master/rapid_task_solving):

- the neighbourhood grows from one junction, whose streets lead to corners; the corner found first is visited next,
  until `junctions` corners have been. Corners that were not are where the neighbourhood ends;
- forward leads to the other end of the street, and the agent then looks along the street that goes on most nearly as it
  walked: straight on, else right, else left, else back. Left and right turn to the next street that way around;
- collect gives 1 where corner and direction are the goal's, and does nothing else. All other rewards are 0;
- start and first goal are drawn uniformly from all corners and directions, a goal never where the agent stands;
- a trial is 200 steps. (The paper asked for 5 junctions.)

Changed: corners lie on a square grid, a visited one has three or four streets, equally likely, and a street is one edge
of the grid. There are some corners with two streets, where the ends of a neighbourhood meet; the published graphs have
them there too. A symbol is observed as its number, not as a one-hot vector. Collecting a goal ends an attempt (a *soft
reset*), since the next goal begins a new task in the same streets.

A *place* is a corner and a direction in which a street leaves it. Directions count clockwise, 0 is up.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces

from envs import base, drawing
from envs.player import Player

FORWARD, LEFT, RIGHT, COLLECT = range(4)

MAX_JUNCTIONS = 8
GRID = 7
"""Corners along each side of the grid. Eight junctions are at most two streets from the first, in the middle, since it
has three neighbours and these four more; so their streets end three from it, inside."""
CORNERS = GRID**2
AHEAD = np.array([-GRID, 1, GRID, -1], np.int32)
"""Change of a corner's number by a step in each direction."""


def places_needed(junctions: int) -> int:
    """The most places there can be: four streets at the first junction, three new ones at each other, two ways each."""
    return 2 * (4 + 3 * (junctions - 1))


@dataclass(frozen=True)
class GraphNavConfig(base.EnvironmentConfig):
    """A small network of streets, drawn anew for each trial: learn it while looking for one place after another."""

    junctions: int = 5
    """Corners with at least three streets."""
    symbols: int = 60
    """Number of symbols from which those of the places are drawn; at least as many as there can be places."""
    trial_length: int = 200
    """Steps in one neighbourhood."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.junctions <= MAX_JUNCTIONS:
            raise ValueError(f"junctions is {self.junctions}, but must be from 1 to {MAX_JUNCTIONS}.")
        if self.trial_length < 1:
            raise ValueError(f"trial_length is {self.trial_length}, but must be at least 1.")
        needed = places_needed(self.junctions)
        if self.symbols < needed:
            raise ValueError(
                f"symbols is {self.symbols}, but must be at least {needed}: "
                f"{self.junctions} junctions may have so many places."
            )

    def make(self) -> tuple["GraphNav", "GraphNavParams"]:
        """The environment and its parameters."""
        params = GraphNavParams(
            max_steps_in_episode=base.trial_steps(self.trial_length), junctions=base.parameter(np.int32(self.junctions))
        )
        return GraphNav(self.symbols), params

    def splits(self) -> dict[str, Self]:
        """Larger neighbourhoods, as far as there are symbols for them, and longer trials."""
        sizes = {f"junctions={n}": replace(self, junctions=n) for n in (5, 6, 7, 8) if places_needed(n) <= self.symbols}
        lengths = {f"trial_length={n}": replace(self, trial_length=n) for n in (400, 800)}
        return {name: setting for name, setting in {**sizes, **lengths}.items() if setting != self}


@struct.dataclass(kw_only=True)
class GraphNavParams(base.EnvParams):
    """What may change without compiling anew; `max_steps_in_episode` (int32) is the length of a trial."""

    junctions: jax.Array  # int32


@struct.dataclass
class GraphNavState(base.EnvState):
    """One neighbourhood during a trial; `time` (int32) counts the trial's steps."""

    place: jax.Array  # int32: where the agent is
    goal: jax.Array  # int32: the place to go to
    places: jax.Array  # int32: how many there are; they are numbered from 0, rows of what follows
    corner: jax.Array  # int32 [symbols]: corner of each place, y * GRID + x
    direction: jax.Array  # int32 [symbols]: direction of each place
    next_place: jax.Array  # int32 [symbols, 4]: the place that each action leads to
    symbol: jax.Array  # int32 [symbols]: the symbol of each place


class SearcherState(NamedTuple):
    """What the searcher knows of a neighbourhood: where it has been, bool [symbols], and what it can foresee."""

    visited: jax.Array
    foreseen: jax.Array  # bool [symbols, 3]: where forward, left and right lead to


@dataclass(frozen=True)
class GraphNav(base.Environment):
    """The gymnax environment; `GraphNavConfig` describes it.

    Observation, int32 [2]: the symbols of the agent's place and of the goal. Actions: 0 forward, 1 left, 2 right,
    3 collect. `info["soft_reset"]`: a goal was collected. The return of a trial is the number of goals collected.
    """

    symbols: int

    episodic = False

    @property
    def default_params(self) -> GraphNavParams:
        junctions = max(n for n in range(1, 6) if places_needed(n) <= self.symbols)
        return GraphNavConfig(junctions=junctions, symbols=self.symbols).make()[1]

    def reset_env(self, key: jax.Array, params: GraphNavParams) -> tuple[jax.Array, GraphNavState]:
        """Begin a trial; `key` is used for streets, symbols, start and first goal."""
        street_key, symbol_key, start_key, goal_key = jax.random.split(key, 4)
        places, corner, direction, next_place = self.survey(grow_streets(street_key, params.junctions))
        place = jax.random.randint(start_key, (), 0, places, jnp.int32)
        state = GraphNavState(
            time=jnp.int32(0),
            place=place,
            goal=draw_goal(goal_key, place, places),
            places=places,
            corner=corner,
            direction=direction,
            next_place=next_place,
            symbol=jax.random.permutation(symbol_key, jnp.arange(self.symbols, dtype=jnp.int32)),
        )
        return self.observe(key, state, None, params), state

    def survey(self, streets: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """The tables of a state from `streets`, bool [CORNERS, 4]: in which directions a street leaves each corner."""
        exists = streets.ravel()
        number = jnp.cumsum(exists.astype(jnp.int32)) - 1
        corner, direction = jnp.divmod(jnp.nonzero(exists, size=self.symbols, fill_value=0)[0].astype(jnp.int32), 4)

        def first_street(corner: jax.Array, turns: tuple[int, ...]) -> jax.Array:
            """The place at `corner` with the first street there is, in the order of `turns` from the direction."""
            directions = (direction[:, None] + jnp.array(turns, jnp.int32)[None, :]) % 4
            first = jnp.argmax(streets[corner[:, None], directions], axis=1)
            return number[corner * 4 + jnp.take_along_axis(directions, first[:, None], axis=1)[:, 0]]

        along = first_street(corner + jnp.asarray(AHEAD)[direction], (0, 1, 3, 2))
        left = first_street(corner, (3, 2, 1, 0))
        right = first_street(corner, (1, 2, 3, 0))
        stay = number[corner * 4 + direction]
        return number[-1] + 1, corner, direction, jnp.stack([along, left, right, stay], axis=1)

    def step_env(
        self, key: jax.Array, state: GraphNavState, action: jax.Array, params: GraphNavParams
    ) -> tuple[jax.Array, GraphNavState, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Walk, turn or collect; `key` is used for the next goal."""
        collected = (action == COLLECT) & (state.place == state.goal)
        state = replace(
            state,
            time=state.time + 1,
            place=state.next_place[state.place, action],
            goal=jnp.where(collected, draw_goal(key, state.place, state.places), state.goal),
        )
        observation = self.observe(key, state, action, params)
        terminated = self.is_terminated(state, params)
        return observation, state, collected.astype(jnp.float32), terminated, {"soft_reset": collected}

    def observe(
        self, key: jax.Array, state: GraphNavState, action: jax.Array | None, params: GraphNavParams
    ) -> jax.Array:
        """The observation of `state`; it depends neither on `key` nor on `action`."""
        return state.symbol[jnp.stack([state.place, state.goal])]

    @property
    def num_actions(self) -> int:
        return 4

    def observation_space(self, params: GraphNavParams) -> spaces.Box:
        return spaces.Box(0, self.symbols - 1, (2,), jnp.int32)

    def players(self) -> dict[str, Player]:
        """The reference players.

        - `oracle` knows the neighbourhood and takes a shortest way to every goal: the largest possible return, since
          the way to a goal decides nothing about those that follow.
        - `searcher` knows what the agent sees and remembers it for a trial. It takes the shortest way to the goal as if
          whatever it has not tried, forward, left or right, led straight there; so it ends up trying everything that
          could be shorter than what it knows. It knows that left and right undo each other, and nothing of corners and
          streets; greedy, hence not the best possible.

        The best that can be done without memory is not known in closed form: symbols that are dealt anew say nothing,
        but a strategy may let them steer its walk. Train a policy without memory to measure it.
        """
        return {
            "oracle": Player(lambda params: None, self.play_oracle),
            "searcher": Player(self.begin_search, self.play_searcher),
        }

    def play_oracle(
        self, key: jax.Array, player_state: None, state: GraphNavState, params: GraphNavParams
    ) -> tuple[None, jax.Array]:
        moves = state.next_place[:, :COLLECT]
        here = jnp.where(jnp.arange(self.symbols) == state.goal, 0, self.symbols)
        distance = distances(moves, jnp.ones(moves.shape, bool), here)
        onwards = jnp.argmin(distance[moves[state.place]])
        return player_state, jnp.where(state.place == state.goal, COLLECT, onwards)

    def begin_search(self, params: GraphNavParams) -> SearcherState:
        return SearcherState(jnp.zeros(self.symbols, bool), jnp.zeros((self.symbols, 3), bool))

    def play_searcher(
        self, key: jax.Array, known: SearcherState, state: GraphNavState, params: GraphNavParams
    ) -> tuple[SearcherState, jax.Array]:
        # `state.next_place` is looked up only where it is foreseen, or, below, for the step now taken.
        moves = state.next_place[:, :COLLECT]
        visited = known.visited.at[state.place].set(True)
        hopeful = visited & ~known.foreseen.all(axis=1)
        goal = (jnp.arange(self.symbols) == state.goal) & visited
        distance = distances(moves, known.foreseen, jnp.where(goal, 0, jnp.where(hopeful, 1, self.symbols)))
        onwards = jnp.where(known.foreseen, distance[moves], 0)[state.place]
        action = jnp.where(state.place == state.goal, COLLECT, jnp.argmin(onwards))

        reached = state.next_place[state.place, action]
        turned_back = jnp.where(action == LEFT, RIGHT, LEFT)
        foreseen = known.foreseen.at[state.place, action].set(True, mode="drop")
        foreseen = foreseen.at[reached, turned_back].max((action == LEFT) | (action == RIGHT))
        return SearcherState(visited, foreseen), action

    def render(self, state: GraphNavState, params: GraphNavParams) -> np.ndarray:
        """A map of the neighbourhood for spectators: uint8 [H, W, 3], `drawing.CELL` per corner.

        Triangles point along the street that is looked at. Vermillion: the agent. Green: the goal.
        """
        image = np.full((GRID * drawing.CELL, GRID * drawing.CELL, 3), 40.0)

        def draw(place: int, shape: np.ndarray, colour: drawing.Colour) -> None:
            y, x = np.array(divmod(int(state.corner[place]), GRID)) * drawing.CELL
            turned = np.rot90(shape, -int(state.direction[place]))
            drawing.paint(image[y : y + drawing.CELL, x : x + drawing.CELL], turned, colour)

        half_street = np.minimum(drawing.rectangle(0.42, 0, 0.58, 0.5), drawing.disc(0.5, 0.5, 0.16))
        for place in range(int(state.places)):
            draw(place, half_street, drawing.GREY)
        draw(int(state.goal), drawing.triangle(), drawing.GREEN)
        draw(int(state.place), drawing.triangle() + 4, drawing.VERMILLION)
        return np.round(image).astype(np.uint8)


def grow_streets(key: jax.Array, junctions: jax.Array) -> jax.Array:
    """A network of streets, bool [CORNERS, 4] by corner and direction, grown from the corner in the middle."""
    corners, directions = np.arange(CORNERS, dtype=np.int32), np.arange(4, dtype=np.int32)
    middle = CORNERS // 2

    def visit(step: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        streets, found = carry  # `found`: when a corner was, infinity where it was not, or has been visited
        count_key, street_key, order_key = jax.random.split(jax.random.fold_in(key, step), 3)
        corner = jnp.argmin(found).astype(jnp.int32)
        count = 3 + jax.random.bernoulli(count_key).astype(jnp.int32)
        # The streets that there are rank first, all of them; of the others as many are opened as are missing.
        luck = jnp.where(streets[corner], -1.0, jax.random.uniform(street_key, (4,)))
        opened = (luck[None, :] < luck[:, None]).sum(axis=1) < count

        ends = corner + AHEAD
        is_new = opened & ~streets[ends].any(axis=1)
        streets = streets.at[corner].set(opened)
        streets = streets.at[ends, (directions + 2) % 4].max(opened)
        when = step.astype(jnp.float32) + jax.random.uniform(order_key, (4,))
        found = found.at[corner].set(jnp.inf)
        return streets, found.at[ends].min(jnp.where(is_new, when, jnp.inf))

    found = jnp.where(corners == middle, 0.0, jnp.inf).astype(jnp.float32)
    return jax.lax.fori_loop(0, junctions, visit, (jnp.zeros((CORNERS, 4), bool), found))[0]


def draw_goal(key: jax.Array, place: jax.Array, places: jax.Array) -> jax.Array:
    """Any of `places` but `place`, int32."""
    # The remainder's bias is below (number of places) / 2**32, and it takes one draw instead of `randint`'s two.
    drawn = (jax.random.bits(key, (), jnp.uint32) % (places - 1).astype(jnp.uint32)).astype(jnp.int32)
    return drawn + (drawn >= place).astype(jnp.int32)


def distances(moves: jax.Array, foreseen: jax.Array, start: jax.Array) -> jax.Array:
    """Steps from each place to the nearest goal, int32 [places], given the most that it takes from each, `start`.

    `moves`, int32 [places, A]: the place that each action leads to; only the `foreseen` ones, bool [places, A], count.
    """

    def relax(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        distance, _ = carry
        onwards = jnp.where(foreseen, distance[moves], moves.shape[0]).min(axis=1)
        shorter = jnp.minimum(distance, onwards + 1)
        return shorter, (shorter < distance).any()

    return jax.lax.while_loop(lambda carry: carry[1], relax, (start.astype(jnp.int32), jnp.bool_(True)))[0]
