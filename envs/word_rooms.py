"""Word Rooms: learn what three objects are called, learn other words meanwhile, and still know the first ones.

Rapid word learning with distractor phases, as HCAM was tested on (arXiv 2105.14039, section 3.3), after the Unity
tasks of https://github.com/google-deepmind/dm_fast_mapping. There, names are bound to objects anew in every episode:
the agent hears the name of an object that it comes near to, and is later asked to go to the object of a name. An
*episode* is made of phases, each in a fresh square room with three objects:

1. its *lesson*: an agent that stands on an object hears its word. The phase ends one step after the last of the three
   words was heard, or when its time is up;
2. any number of *distractors*: a lesson with other words, then a test of these, which is worth a little;
3. the *final test*: the objects of the episode's first lesson, somewhere else, and the word of one of them. The first
   object stepped on is the answer, which is worth 1 if it is right. So is any test over, or when its time is up.

Agents are trained on 0 to 2 distractors and tested on many more. They are also tested on a *chain* of episodes, as one
trial: every episode is like those trained on, but the last one's final test asks for a word of an earlier episode,
drawn uniformly. In training nothing has to be remembered beyond an episode. Where one ends the agent is not told, and
its memory is not cleared: in `info` there is no soft reset, whose flag would be one that the policy has never seen
raised.

The tasks in Unity cannot be computed here, so what follows is ours, made so that remembering is what is difficult:

- rooms of 9 x 9 cells; the agent starts in the middle, and moves up, down, left and right. The observation is centred
  on the agent, so that an object whose word is heard is always seen in the same place. From the middle it shows all of
  the room; elsewhere it may not, and beyond the room there is wall;
- objects are on cells whose row and column are odd. None is at a wall or next to another one, so there is a way around
  every object; and all three can be visited in a phase of 24 steps;
- an object is one of 36, a shape and a colour, drawn anew for every lesson: it may come back under another word. Its
  word is one of 72, and by default no word of a trial is taught twice. `rebind` teaches the same three words in every
  lesson of a trial, for other objects: only those in the room show which lesson is asked for;
- nothing is lost by a wrong answer but the reward, and there is none for hearing words, unless `naming_reward` is set.

Cells are `(row, column)`, from the upper left.
"""

import functools
from dataclasses import dataclass, replace
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces

from envs import base, drawing
from envs.player import Player

MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)], np.int32)
"""Change of `(row, column)` by each action: up, down, left, right."""

FLOOR, WALL, OBJECT = range(3)
"""Symbols of what is observed on a cell. `OBJECT` is the first object, further ones follow."""

OBJECTS_IN_ROOM = 3
SHAPES = (
    drawing.disc(0.5, 0.5, 0.36),
    drawing.rectangle(0.18, 0.18, 0.82, 0.82),
    drawing.triangle(),
    drawing.diamond(0.5, 0.5, 0.44),
    drawing.ring(0.5, 0.5, 0.3, 0.16),
    np.minimum(drawing.rectangle(0.37, 0.12, 0.63, 0.88), drawing.rectangle(0.12, 0.37, 0.88, 0.63)),
)
COLOURS = (
    drawing.VERMILLION,
    drawing.BLUE,
    drawing.YELLOW,
    drawing.GREEN,
    drawing.PURPLE,
    drawing.SKY_BLUE,
)


@dataclass(frozen=True)
class WordRoomsConfig(base.EnvironmentConfig):
    """Words for three objects to be remembered through lessons in other words, within an episode or across several."""

    distractors: tuple[int, ...] = (0, 1, 2)
    """Numbers of distractors in an episode; each episode uses one of these, drawn uniformly."""
    episodes: int = 1
    """Episodes in a trial. The last one asks for a word of an earlier one, if there is one."""
    rebind: bool = False
    """Teach the same three words in every lesson of a trial, instead of words that occur in no other lesson."""
    distractor_reward: float = 0.1
    """Reward for a correct answer in the test of a distractor."""
    naming_reward: float = 0.0
    """Reward for each word heard for the first time in a lesson."""
    phase_steps: int = 24
    """Steps after which a phase is over in any case."""
    room_size: int = 9
    """Cells along each side of a room."""
    view_size: int = 9
    """Cells along each side of what the agent sees."""
    num_shapes: int = 6
    """Shapes of objects."""
    num_colours: int = 6
    """Colours of objects."""
    num_words: int = 72
    """Number of words; 72 are enough for four episodes with five distractors each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, least in (("episodes", 1), ("phase_steps", 1), ("num_words", OBJECTS_IN_ROOM)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} is {getattr(self, field)}, but must be at least {least}.")
        if not self.distractors or min(self.distractors) < 0:
            raise ValueError(f"distractors is {self.distractors}, but must be numbers that are at least 0.")
        if self.room_size < 5 or self.room_size % 2 == 0:
            raise ValueError(f"room_size is {self.room_size}, but must be an odd number that is at least 5.")
        whole_room = 2 * self.room_size - 1
        if not 3 <= self.view_size <= whole_room or self.view_size % 2 == 0:
            raise ValueError(f"view_size is {self.view_size}, but must be an odd number from 3 to {whole_room}.")
        for field, most in (("num_shapes", len(SHAPES)), ("num_colours", len(COLOURS))):
            if not 1 <= getattr(self, field) <= most:
                raise ValueError(f"{field} is {getattr(self, field)}, but must be from 1 to {most}.")
        if self.num_shapes * self.num_colours < OBJECTS_IN_ROOM:
            raise ValueError(
                f"num_shapes is {self.num_shapes} and num_colours {self.num_colours}, "
                f"but they must make at least {OBJECTS_IN_ROOM} objects."
            )
        words_taught = self.episodes * (1 + max(self.distractors)) * OBJECTS_IN_ROOM
        if self.num_words < words_taught and not self.rebind:
            raise ValueError(
                f"num_words is {self.num_words}, but must be at least {words_taught} for {self.episodes} episodes "
                f"with up to {max(self.distractors)} distractors, unless rebind is set."
            )

    def make(self) -> tuple["WordRooms", "WordRoomsParams"]:
        """The environment and its parameters."""
        phases = 2 + 2 * max(self.distractors)
        # NumPy leaves: making an environment starts no JAX backend.
        params = WordRoomsParams(
            max_steps_in_episode=base.trial_steps(self.episodes * phases * self.phase_steps),
            distractors=base.parameter(np.array(self.distractors, np.int32)),
            episodes=base.parameter(np.int32(self.episodes)),
            rebind=base.parameter(np.bool_(self.rebind)),
            distractor_reward=base.parameter(np.float32(self.distractor_reward)),
            naming_reward=base.parameter(np.float32(self.naming_reward)),
            phase_steps=base.parameter(np.int32(self.phase_steps)),
        )
        return WordRooms(self.room_size, self.view_size, self.num_shapes, self.num_colours, self.num_words), params

    def splits(self) -> dict[str, Self]:
        """More distractors than trained on, and chains of episodes. All share one compilation.

        The paper's last version (October 2021) reports those called `headline`, its first one (May 2021) those called
        `stretch` instead.
        """
        reported = {(1, 10): "headline", (4, 0): "headline", (2, 5): "headline"}
        reported |= {(1, 20): "stretch", (4, 1): "stretch", (3, 5): "stretch"}
        matrix = [(1, distractors) for distractors in (5, 10, 20)]
        matrix += [(episodes, distractors) for episodes in (2, 3, 4) for distractors in (0, 1, 5)]

        def name(episodes: int, distractors: int) -> str:
            parts = [reported.get((episodes, distractors), ""), f"episodes_{episodes}" if episodes > 1 else ""]
            return "_".join(filter(None, [*parts, f"distractors_{distractors}"]))

        same_shape = len(self.distractors)
        return {
            name(episodes, distractors): replace(self, episodes=episodes, distractors=(distractors,) * same_shape)
            for episodes, distractors in matrix
        }


@struct.dataclass(kw_only=True)
class WordRoomsParams(base.EnvParams):
    """What may change without compiling anew; `max_steps_in_episode` (int32) is no less than the longest trial."""

    distractors: jax.Array  # int32 [L]: one of them is drawn
    episodes: jax.Array  # int32
    rebind: jax.Array  # bool
    distractor_reward: jax.Array  # float32
    naming_reward: jax.Array  # float32
    phase_steps: jax.Array  # int32


@struct.dataclass
class Room:
    """What is drawn for a phase."""

    cells: jax.Array  # int32 [3, 2]: where the objects are
    objects: jax.Array  # int32 [3]
    words: jax.Array  # int32 [3]: what they are called, from 1
    asked: jax.Array  # int32: the object whose word a test asks for
    lag: jax.Array  # int32: how many episodes ago these words were taught
    distractors: jax.Array  # int32: those of the episode


@struct.dataclass
class WordRoomsState(base.EnvState):
    """One trial; `time` (int32) counts its steps."""

    seed: jax.Array  # int32: what the trial teaches follows from it, so that lessons need not be kept
    episode: jax.Array  # int32: in the chain; the number of episodes after the last one
    phase: jax.Array  # int32: in the episode; 0 the lesson, then each distractor's lesson and test, last the final test
    phase_time: jax.Array  # int32: steps taken in this phase
    position: jax.Array  # int32 [2]: the agent's cell
    heard: jax.Array  # bool [3]: the words of the room that were heard in this phase
    final_right: jax.Array  # int32: final tests answered rightly so far
    distractors_right: jax.Array  # int32: tests of distractors answered rightly so far
    distractors_over: jax.Array  # int32: tests of distractors so far
    room: Room


@dataclass(frozen=True)  # equal environments share one compilation of gymnax's jitted `step` and `reset`
class WordRooms(base.Environment):
    """The gymnax environment; `WordRoomsConfig` describes its arguments and checks them.

    Observation, a dict:

    - `room`, uint8 [V, V]: the symbols of what is around the agent and, in the middle, under it;
    - `word`, int32: the word heard in a lesson, or the one asked for in a test; 0 for none;
    - `question`, int32: 1 in a test, 0 in a lesson.

    A trial ends with the last final test, by `terminated`. Every step reports in `info`

    - `success` (bool): the trial ended with the right answer;
    - `final_accuracy` (float32): the share of right answers in the final tests so far, one for each episode;
    - `distractor_accuracy` (float32): the same of the distractors, 1 where there was none;
    - `lag` (float32): how many episodes ago the words of the room were taught.
    """

    room_size: int
    view_size: int
    num_shapes: int
    num_colours: int
    num_words: int

    outcomes = ("success", "final_accuracy", "distractor_accuracy", "lag")

    @property
    def default_params(self) -> WordRoomsParams:
        return WordRoomsConfig().make()[1]

    def reset_env(self, key: jax.Array, params: WordRoomsParams) -> tuple[dict[str, jax.Array], WordRoomsState]:
        """Begin a trial; `key` is used for what it teaches and for the first room."""
        seed_key, room_key = jax.random.split(key)
        seed = (jax.random.bits(seed_key) >> 1).astype(jnp.int32)
        zero = jnp.int32(0)
        state = WordRoomsState(
            time=zero,
            seed=seed,
            episode=zero,
            phase=zero,
            phase_time=zero,
            position=self.start,
            heard=jnp.zeros(OBJECTS_IN_ROOM, bool),
            final_right=zero,
            distractors_right=zero,
            distractors_over=zero,
            room=self.enter(room_key, seed, zero, zero, zero, params),
        )
        return self.observe(key, state, None, params), state

    def enter(
        self,
        key: jax.Array,
        seed: jax.Array,
        episode: jax.Array,
        phase: jax.Array,
        distractors: jax.Array,
        params: WordRoomsParams,
    ) -> Room:
        """Draw the room of a phase; `key` is used for all but the lesson, which follows from `seed`.

        `distractors` are those of the episode, and drawn if it begins.
        """
        numbers = jax.random.uniform(key, (OBJECTS_IN_ROOM + 3,))  # at once: a call costs more than a number
        places = jnp.asarray(places_of(self.room_size))
        asked, earlier, choice = (
            below(limit, number)
            for limit, number in zip(
                (OBJECTS_IN_ROOM, jnp.maximum(episode, 1), len(params.distractors)),
                numbers[OBJECTS_IN_ROOM:],
                strict=True,
            )
        )
        distractors = jnp.where(phase == 0, jnp.asarray(params.distractors)[choice], distractors)
        final = phase == 1 + 2 * distractors
        recalls_earlier = final & (episode > 0) & (episode == params.episodes - 1)
        taught_in = jnp.where(recalls_earlier, earlier, episode)
        objects, words = self.lesson(seed, taught_in, jnp.where(final, 0, (phase + 1) // 2), params)
        return Room(
            cells=places[different(len(places), numbers[:OBJECTS_IN_ROOM])],
            objects=objects,
            words=words,
            asked=asked,
            lag=episode - taught_in,
            distractors=distractors,
        )

    def lesson(
        self, seed: jax.Array, episode: jax.Array, lesson: jax.Array, params: WordRoomsParams
    ) -> tuple[jax.Array, jax.Array]:
        """The objects of a lesson and their words, int32 [3] each. Lesson 0 is the episode's own, then distractors."""
        lessons_before = episode * (1 + params.distractors.max()) + lesson
        purposes = jnp.stack([jnp.int32(0), 1 + lessons_before])
        words_key, objects_key = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), purposes)
        objects = different(self.num_objects, jax.random.uniform(objects_key, (OBJECTS_IN_ROOM,)))
        # A random order of all words, of which only three places are computed: ranks among random numbers.
        indices = jnp.where(params.rebind, 0, OBJECTS_IN_ROOM * lessons_before) + jnp.arange(OBJECTS_IN_ROOM)
        numbers = jax.random.bits(words_key, (self.num_words,))
        own = numbers[indices][:, None]
        ties = (numbers[None] == own) & (jnp.arange(self.num_words)[None] < indices[:, None])
        words = 1 + ((numbers[None] < own) | ties).sum(-1, dtype=jnp.int32)
        return objects, words

    def step_env(
        self, key: jax.Array, state: WordRoomsState, action: jax.Array, params: WordRoomsParams
    ) -> tuple[dict[str, jax.Array], WordRoomsState, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Move, hear or answer, and go on to the next phase; `key` is used for its room."""
        room, final, testing = state.room, self.is_final(state), self.is_test(state)
        position = self.move(state.position, action)
        here = jnp.all(room.cells == position[None], axis=-1)
        heard = state.heard | (here & ~testing)
        right = testing & jnp.any(here & (jnp.arange(OBJECTS_IN_ROOM) == room.asked))
        # The last word must be observed before its room is left.
        over = jnp.where(testing, here.any(), state.heard.all()) | (state.phase_time + 1 >= params.phase_steps)

        reward = jnp.where(right, jnp.where(final, 1.0, params.distractor_reward), 0.0)
        reward += params.naming_reward * (heard & ~state.heard).sum(dtype=jnp.float32)

        episode_over = over & final
        terminated = episode_over & (state.episode == params.episodes - 1)
        goes_on = over & ~terminated
        episode = state.episode + episode_over.astype(jnp.int32)
        phase = jnp.where(goes_on, jnp.where(final, 0, state.phase + 1), state.phase)
        next_state = WordRoomsState(
            time=state.time + 1,
            seed=state.seed,
            episode=episode,
            phase=phase,
            phase_time=jnp.where(goes_on, 0, state.phase_time + 1),
            position=jnp.where(goes_on, self.start, position),
            heard=heard & ~goes_on,
            final_right=state.final_right + (right & final).astype(jnp.int32),
            distractors_right=state.distractors_right + (right & ~final).astype(jnp.int32),
            distractors_over=state.distractors_over + (over & testing & ~final).astype(jnp.int32),
            room=base.rows_where(
                goes_on, self.enter, (key, state.seed, episode, phase, room.distractors, params), room
            ),
        )

        def share(part: jax.Array, whole: jax.Array) -> jax.Array:
            return part.astype(jnp.float32) / jnp.maximum(whole, 1).astype(jnp.float32)

        no_distractors = next_state.distractors_over == 0
        info = {
            "success": right & terminated,
            "final_accuracy": share(next_state.final_right, episode),
            "distractor_accuracy": jnp.where(
                no_distractors, 1.0, share(next_state.distractors_right, next_state.distractors_over)
            ),
            "lag": room.lag.astype(jnp.float32),
        }
        return self.observe(key, next_state, action, params), next_state, reward, terminated, info

    @property
    def num_objects(self) -> int:
        return self.num_shapes * self.num_colours

    @property
    def start(self) -> jax.Array:
        return jnp.full(2, self.room_size // 2, jnp.int32)

    def is_final(self, state: WordRoomsState) -> jax.Array:
        """Whether this phase is an episode's final test."""
        return state.phase == 1 + 2 * state.room.distractors

    def is_test(self, state: WordRoomsState) -> jax.Array:
        """Whether this phase is a test, of a distractor or the final one."""
        return self.is_final(state) | ((state.phase > 0) & (state.phase % 2 == 0))

    def move(self, position: jax.Array, action: jax.Array) -> jax.Array:
        """The cell, int32 [2], that `action` leads to from `position`; walls hold the agent back."""
        return jnp.clip(position + jnp.asarray(MOVES)[action], 0, self.room_size - 1)

    def observe(
        self, key: jax.Array, state: WordRoomsState, action: jax.Array | None, params: WordRoomsParams
    ) -> dict[str, jax.Array]:
        """The observation of `state`; it depends neither on `key` nor on `action`."""
        border = self.view_size // 2
        empty_room = np.pad(np.full((self.room_size,) * 2, FLOOR, np.uint8), border, constant_values=WALL)
        cells = state.room.cells + border
        things = (OBJECT + state.room.objects).astype(jnp.uint8)
        whole_room = jnp.asarray(empty_room).at[cells[:, 0], cells[:, 1]].set(things)
        seen = jax.lax.dynamic_slice(whole_room, (state.position[0], state.position[1]), (self.view_size,) * 2)

        testing = self.is_test(state)
        here = jnp.all(state.room.cells == state.position[None], axis=-1)
        spoken = jnp.where(testing, jnp.arange(OBJECTS_IN_ROOM) == state.room.asked, here)
        return {
            "room": seen,
            "word": jnp.where(spoken, state.room.words, 0).sum(),
            "question": testing.astype(jnp.int32),
        }

    def is_terminated(self, state: WordRoomsState, params: WordRoomsParams) -> jax.Array:
        return state.episode >= params.episodes

    @property
    def num_actions(self) -> int:
        return len(MOVES)

    def observation_space(self, params: WordRoomsParams) -> spaces.Dict:
        return spaces.Dict(
            {
                "room": spaces.Box(0, OBJECT + self.num_objects - 1, (self.view_size, self.view_size), jnp.uint8),
                "word": spaces.Discrete(self.num_words + 1),
                "question": spaces.Discrete(2),
            }
        )

    def players(self) -> dict[str, Player]:
        """The reference players.

        - `oracle` knows every word. In lessons it visits one object after another, each time the nearest, and of those
          the one farthest from the others, so that it is in time for all. In tests it takes a shortest way around the
          other objects. So it gets all rewards there are.
        - `memoryless` differs in tests: it answers with the nearest object. Without having kept the words no answer is
          better, so its rate of success is the chance, 1 / 3, in every test.
        """
        return {
            "oracle": Player(lambda params: None, functools.partial(self.act, True)),
            "memoryless": Player(lambda params: None, functools.partial(self.act, False)),
        }

    def act(
        self, knows_words: bool, key: jax.Array, player_state: None, state: WordRoomsState, params: WordRoomsParams
    ) -> tuple[None, jax.Array]:
        room, testing = state.room, self.is_test(state)
        distances = jnp.abs(room.cells - state.position[None]).sum(-1)
        apart = jnp.where(state.heard[None], 0, jnp.abs(room.cells[:, None] - room.cells[None]).sum(-1)).sum(-1)
        far = 10 * self.room_size**2
        nearest = jnp.argmin(jnp.where(state.heard, far, distances * 5 * self.room_size - apart))
        target = jnp.where(testing, room.asked, nearest) if knows_words else nearest

        reached = self.move(state.position[None], jnp.arange(self.num_actions))
        offsets = jnp.abs(room.cells[target][None] - reached)
        # Of two moves that come equally near, the one along the longer way: so the agent meets an object in a straight
        # line before its target only where it has to, and once beside it does not turn back.
        cost = offsets.sum(-1) * self.room_size + offsets.max(-1)
        on_object = jnp.all(reached[:, None] == room.cells[None], axis=-1)
        wrong_answer = testing & jnp.any(on_object & (jnp.arange(OBJECTS_IN_ROOM) != target)[None], axis=-1)
        return player_state, jnp.argmin(jnp.where(wrong_answer, far, cost))

    def render(self, state: WordRoomsState, params: WordRoomsParams) -> np.ndarray:
        """A picture of one environment for spectators: uint8 [H, W, 3], `drawing.CELL` per cell.

        The room, dimmed where the agent (white) does not see it. Below it the three objects with their words as
        numbers: bright those that were heard in this lesson, or in a test the one asked for. At the bottom the phases
        of the episode, the present one included; a test has a yellow frame.
        """
        room, position = state.room, np.asarray(state.position)
        testing = bool(self.is_test(state))
        size, cell_size = self.room_size, drawing.CELL
        image = np.full(((size + 2) * cell_size, max(size, 2 * OBJECTS_IN_ROOM) * cell_size, 3), 30.0)
        floor = image[: size * cell_size, : size * cell_size]
        floor[:] = 190.0
        floor[::cell_size] = floor[:, ::cell_size] = 165.0

        def tile(row: int, column: int) -> np.ndarray:
            return image[row * cell_size :, column * cell_size :][:cell_size, :cell_size]

        def paint_object(tile: np.ndarray, thing: int) -> None:
            shape, colour = divmod(int(thing), self.num_colours)
            drawing.paint(tile, SHAPES[shape] - 1.5, drawing.BLACK)
            drawing.paint(tile, SHAPES[shape], COLOURS[colour])

        for cell, thing in zip(np.asarray(room.cells), np.asarray(room.objects), strict=True):
            paint_object(tile(*cell), thing)
        drawing.paint(tile(*position), drawing.disc(0.5, 0.5, 0.2) - 1.5, drawing.BLACK)
        drawing.paint(tile(*position), drawing.disc(0.5, 0.5, 0.2), drawing.WHITE)
        for row, column in np.ndindex(size, size):
            if np.abs((row, column) - position).max() > self.view_size // 2:
                tile(row, column)[:] *= 0.5

        if testing:
            floor[:3] = floor[-3:] = floor[:, :3] = floor[:, -3:] = drawing.YELLOW
        bright = np.arange(OBJECTS_IN_ROOM) == int(room.asked) if testing else np.asarray(state.heard)
        for index, (thing, word) in enumerate(zip(np.asarray(room.objects), np.asarray(room.words), strict=True)):
            object_tile, word_tile = (image[size * cell_size :, (2 * index + i) * cell_size :] for i in (0, 1))
            paint_object(object_tile[:cell_size, :cell_size], thing)
            word_colour = drawing.WHITE if bright[index] else drawing.GREY
            drawing.paint(word_tile[:cell_size, :cell_size], drawing.number(int(word)), word_colour)
        bar = image[(size + 1) * cell_size + cell_size // 4 : -cell_size // 4]
        drawing.progress_bar(bar, int(state.phase) + 1, 2 + 2 * int(room.distractors))
        return np.round(image).astype(np.uint8)


def below(limit: jax.typing.ArrayLike, number: jax.Array) -> jax.Array:
    """A `number` drawn from 0 to 1 as an integer from 0 to `limit` - 1, int32."""
    return (number * jnp.asarray(limit, jnp.float32)).astype(jnp.int32)


def different(limit: int, numbers: jax.Array) -> jax.Array:
    """Three `numbers` drawn from 0 to 1 as different integers from 0 to `limit` - 1, in random order: int32 [3]."""
    first, second, third = below(limit - np.arange(OBJECTS_IN_ROOM), numbers)
    second += (second >= first).astype(jnp.int32)
    third += (third >= jnp.minimum(first, second)).astype(jnp.int32)
    third += (third >= jnp.maximum(first, second)).astype(jnp.int32)
    return jnp.stack([first, second, third])


@functools.cache
def places_of(room_size: int) -> np.ndarray:
    """Where objects may be, int32 [P, 2]: cells with odd coordinates, but for the middle of the room."""
    odd = np.arange(1, room_size - 1, 2)
    cells = np.stack(np.meshgrid(odd, odd, indexing="ij"), axis=-1).reshape(-1, 2)
    return cells[(cells != room_size // 2).any(-1)].astype(np.int32)
