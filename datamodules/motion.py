"""Small images moving over a canvas with subpixel precision: pure functions of positions.

Legend: N objects, T frames, S canvas pixels, K = 8 cells of an image; positions are (y, x) of the upper left corner.
"""

import numpy as np

CELLS = 8


def direction_vectors(directions: int) -> np.ndarray:
    """Return unit vectors (directions, 2) as (y, x), clockwise from right; y points down."""
    angle = 2 * np.pi * np.arange(directions) / directions
    return np.stack([np.sin(angle), np.cos(angle)], axis=1)


def positions(start_N2: np.ndarray, step_N2: np.ndarray, frames: int, room: float, motion: str) -> np.ndarray:
    """Return positions (N, T, 2) from a start and a step a frame; each axis has `room` pixels.

    `wrap`: the canvas, a torus. `bounce`: the canvas less the image, with a wall at both ends.
    """
    free = start_N2[:, None] + np.arange(frames)[:, None] * step_N2[:, None]
    if motion == "wrap":
        return free % room
    return room - np.abs(free % (2 * room) - room) if room > 0 else np.zeros_like(free)


def render(images_NKK: np.ndarray, positions_NT2: np.ndarray, size: int, cell: float, *, wrap: bool) -> np.ndarray:
    """Return frames (T, S, S) in [0, 1]: the images, interpolated with `cell` pixels a cell, added and clipped.

    Interpolation is separable, rows @ image @ columns. A fraction of a pixel on one axis blurs exactly as on the
    other.
    """
    frames = render_each(images_NKK, positions_NT2, size, cell, wrap=wrap)
    return np.minimum(frames.sum(0) if len(frames) > 1 else frames[0], 1)


def render_each(images_NKK: np.ndarray, positions_NT2: np.ndarray, size: int, cell: float, *, wrap: bool) -> np.ndarray:
    """Return frames (N, T, S, S), each image on canvases of its own; see render."""
    weights_NTSAK = _weights(positions_NT2.astype(np.float32), size, np.float32(cell), wrap=wrap)
    rows, columns = weights_NTSAK[..., 0, :, :], weights_NTSAK[..., 1, :, :]
    return (rows @ images_NKK[:, None]) @ columns.swapaxes(-1, -2)


def _weights(positions_NT2: np.ndarray, size: int, cell: np.float32, *, wrap: bool) -> np.ndarray:
    """Return the share (N, T, 2, S, K) of each cell in each pixel row (axis 0) or column (axis 1): a tent."""
    knots = cell * (np.arange(CELLS, dtype=np.float32) + np.float32(0.5))
    grid_SK = np.arange(size, dtype=np.float32)[:, None] + np.float32(0.5) - knots
    distance = grid_SK - positions_NT2[..., None, None]
    if wrap:
        distance -= size * np.rint(distance / size)
    np.abs(distance, out=distance)
    return np.maximum(1 - distance / cell, 0)
