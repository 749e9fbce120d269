"""Antialiased shapes for `render`, in NumPy.

A shape is an array of signed distances in pixels, float [H, W], negative inside. So the union of shapes is their
`np.minimum`, and a shape minus a number is the same shape grown by that many pixels. Lengths are fractions of a cell,
measured from its upper left corner. The colours are told apart with any kind of colour vision (Okabe and Ito, 2008).
"""

import numpy as np

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


def disc(x, y, radius):
    return CELL * (np.hypot(_X - x, _Y - y) - radius)


def ring(x, y, radius, width):
    return np.abs(disc(x, y, radius)) - CELL * width / 2


def rectangle(left, top, right, bottom):
    return CELL * np.maximum(np.maximum(left - _X, _X - right), np.maximum(top - _Y, _Y - bottom))


def arrow_up():
    """An arrow that fills the height of a cell."""
    head = CELL * np.maximum(np.abs(_X - 0.5) * 0.9 - (_Y - 0.12) * 0.55, _Y - 0.5)
    return np.minimum(head, rectangle(0.43, 0.4, 0.57, 0.88))


def paint(tile, shape, colour):
    """Lay `colour` over `tile`, a float view [CELL, CELL, 3] into an image, where `shape` is."""
    tile += np.clip(0.5 - shape, 0, 1)[..., None] * (np.array(colour) - tile)
