"""Antialiased shapes for `render`, in NumPy.

A shape is an array of signed distances in pixels, float [H, W], negative inside. So the union of shapes is their
`np.minimum`, and a shape minus a number is the same shape grown by that many pixels. Lengths are fractions of a cell,
measured from its upper left corner. The colours differ for every kind of colour vision (Okabe and Ito, 2008).
"""

import itertools

import numpy as np

Colour = tuple[int, int, int]
"""Red, green and blue, from 0 to 255."""

CELL = 32  # pixels along each side of a cell

BLACK = (0, 0, 0)
GREY = (110, 110, 110)
WHITE = (255, 255, 255)
SKY_BLUE = (86, 180, 233)
BLUE = (0, 114, 178)
GREEN = (0, 158, 115)
YELLOW = (240, 228, 66)
VERMILLION = (213, 94, 0)
PURPLE = (204, 121, 167)

_Y, _X = (np.mgrid[:CELL, :CELL] + 0.5) / CELL


def disc(x: float, y: float, radius: float) -> np.ndarray:
    return CELL * (np.hypot(_X - x, _Y - y) - radius)


def ring(x: float, y: float, radius: float, width: float) -> np.ndarray:
    return np.abs(disc(x, y, radius)) - CELL * width / 2


def diamond(x: float, y: float, radius: float) -> np.ndarray:
    return CELL * (np.abs(_X - x) + np.abs(_Y - y) - radius) / np.sqrt(2)


def triangle() -> np.ndarray:
    """A triangle that fills a cell, its tip up."""
    return np.maximum(rectangle(0, 0, 1, 0.82), CELL * (2 * np.abs(_X - 0.5) - (_Y - 0.1)) / np.sqrt(5))


def rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return CELL * np.maximum(np.maximum(left - _X, _X - right), np.maximum(top - _Y, _Y - bottom))


def arrow_up() -> np.ndarray:
    """An arrow that fills the height of a cell."""
    head = CELL * np.maximum(np.abs(_X - 0.5) * 0.9 - (_Y - 0.12) * 0.55, _Y - 0.5)
    return np.minimum(head, rectangle(0.43, 0.4, 0.57, 0.88))


_SEGMENTS = {  # of a digit: left, top, right, bottom, as fractions of its box
    "top": (0, 0, 1, 0.16),
    "upper left": (0, 0, 0.3, 0.58),
    "upper right": (0.7, 0, 1, 0.58),
    "middle": (0, 0.42, 1, 0.58),
    "lower left": (0, 0.42, 0.3, 1),
    "lower right": (0.7, 0.42, 1, 1),
    "bottom": (0, 0.84, 1, 1),
}
_DIGITS = (0b1110111, 0b0010010, 0b1011101, 0b1011011, 0b0111010, 0b1101011, 0b1101111, 0b1010010, 0b1111111, 0b1111011)


def number(value: int) -> np.ndarray:
    """The digits of `value`, up to three of them, in the middle of a cell."""
    digits = str(value)
    height, width, gap = 0.4, 0.2, 0.06
    left = 0.5 - (len(digits) * (width + gap) - gap) / 2
    strokes = []
    for place, digit in enumerate(digits):
        x, y = left + place * (width + gap), 0.5 - height / 2
        lit = (segment for bit, segment in enumerate(_SEGMENTS.values()) if _DIGITS[int(digit)] >> (6 - bit) & 1)
        strokes += [rectangle(x + width * a, y + height * b, x + width * c, y + height * d) for a, b, c, d in lit]
    return np.minimum.reduce(strokes)


def paint(tile: np.ndarray, shape: np.ndarray, colour: Colour | np.ndarray) -> None:
    """Lay `colour` over `tile`, a float view [CELL, CELL, 3] into an image, where `shape` is."""
    tile += np.clip(0.5 - shape, 0, 1)[..., None] * (np.array(colour) - tile)


def progress_bar(image: np.ndarray, done: int, total: int) -> None:
    """Fill `image`, a float view [H, W, 3], with `total` segments; the first `done` of them stand out."""
    edges = np.linspace(0, image.shape[1], total + 1).astype(int)
    for segment, (left, right) in enumerate(itertools.pairwise(edges)):
        image[:, left + (right - left > 2) : right] = SKY_BLUE if segment < done else GREY
