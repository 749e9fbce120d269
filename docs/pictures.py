"""Draws the pictures of the environments' pages: `python docs/pictures.py`, where `render` of one has changed.

Each shows the best reference player after a few steps of an environment with its default fields.
"""

from pathlib import Path

import jax
from PIL import Image

from envs import ENVIRONMENTS
from memrl.environment import hooks

FOLDER = Path(__file__).parent / "pages" / "environments"
STEPS = 6
"""Steps played before the picture."""


def picture(environment, env_params) -> Image.Image:
    """The environment after some steps of its best player."""
    player = next(iter(hooks(environment).players().values()))
    reset_key, *keys = jax.random.split(jax.random.key(0), 1 + 2 * STEPS)
    _, state = environment.reset(reset_key, env_params)
    remembered = player.initial_state(env_params)
    for act_key, step_key in zip(keys[::2], keys[1::2], strict=True):
        remembered, action = jax.jit(player.act)(act_key, remembered, state, env_params)
        _, state, *_ = environment.step(step_key, state, action, env_params)
    return Image.fromarray(hooks(environment).render(state, env_params))


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, config in ENVIRONMENTS.items():
        environment, env_params = config().make()
        if hooks(environment).render is not None:
            picture(environment, env_params).quantize(32, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png")
            print(name, flush=True)


if __name__ == "__main__":
    main()
