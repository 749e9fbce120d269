"""Antialiased shapes for `render`, in NumPy.

A shape is an array of signed distances in pixels, float [H, W], negative inside. So the union of shapes is their
`np.minimum`, and a shape minus a number is the same shape grown by that many pixels. Lengths are fractions of a cell,
measured from its upper left corner. The colours are told apart with any kind of colour vision (Okabe and Ito, 2008).
"""

import numpy as np

CELL = 32  # pixels along each side of a cell

BLACK = (0, 0, 0)
WHITE = (255, 255, 255)
SKY_BLUE = (86, 180, 233)
BLUE = (0, 114, 178)
YELLOW = (240, 228, 66)
VERMILLION = (213, 94, 0)

_Y, _X = (np.mgrid[:CELL, :CELL] + 0.5) / CELL


def disc(x, y, radius):
    return CELL * (np.hypot(_X - x, _Y - y) - radius)


def ring(x, y, radius, width):
    return np.abs(disc(x, y, radius)) - CELL * width / 2


def rectangle(left, top, right, bottom):
    return CELL * np.maximum(np.maximum(left - _X, _X - right), np.maximum(top - _Y, _Y - bottom))


def paint(tile, shape, colour):
    """Lay `colour` over `tile`, a float view [CELL, CELL, 3] into an image, where `shape` is."""
    tile += np.clip(0.5 - shape, 0, 1)[..., None] * (np.array(colour) - tile)
