"""The box around what an image shows."""

import numpy as np
import numpy.typing as npt


def bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the smallest box around all that is true in `mask`, of any shape; the whole image if nothing is."""
    box = []
    for axis in range(mask.ndim):
        occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else slice(None))
    return tuple(box)
