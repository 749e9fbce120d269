"""Animations of what an agent does."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from memrl.files import replacing

if TYPE_CHECKING:
    from PIL import Image

CAPTION_HEIGHT = 20  # pixels


def save_gif(
    path: str | Path, frames: Sequence[np.ndarray], frames_per_second: float = 10, captions: Sequence[str] = ()
) -> Path:
    """Write `frames`, uint8 [H, W, 3] each and all of one shape, as an endless GIF to `path` and return it.

    `captions`, where given, are one line of text per frame, shown below it. A file already at `path` is replaced only
    once the new one is complete. GIF counts time in 1/100 s, and viewers slow down what is faster than 50 per second.
    """
    from PIL import Image

    if len(frames) == 0:
        raise ValueError("There are no frames to animate.")
    if captions and len(captions) != len(frames):
        raise ValueError(f"There are {len(captions)} captions for {len(frames)} frames; give one for each, or none.")
    if not 0 < frames_per_second <= 50:
        raise ValueError(f"frames_per_second is {frames_per_second}, but must be above 0 and at most 50.")

    path = Path(path)
    images = [Image.fromarray(frame) for frame in frames]
    if captions:
        images = [_with_caption(image, caption) for image, caption in zip(images, captions, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    duration = round(100 / frames_per_second) * 10  # milliseconds
    with replacing(path) as incomplete:
        images[0].save(incomplete, "GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)
    return path


def _with_caption(image: "Image.Image", caption: str) -> "Image.Image":
    from PIL import Image, ImageDraw

    captioned = Image.new("RGB", (image.width, image.height + CAPTION_HEIGHT), "white")
    captioned.paste(image)
    ImageDraw.Draw(captioned).text((4, image.height + 3), caption, fill="black", font_size=13)
    return captioned
