"""Draws segmentations: image, truth and prediction side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

_COLOURS = ListedColormap(["#1f9e9e", "#f2c230", "#d1495b", "#6a4c93"])
_COLUMNS = ("image", "truth", "prediction")


@dataclass(frozen=True)
class Example:
    """One case of a picture: three images of the same shape, 2D or 3D.

    Parameters
    ----------
    title
        What stands beside it.
    image
        Intensities.
    truth, prediction
        Label images; 0 is background.
    spacing
        Distance of the voxels along the axes, in mm.
    """

    title: str
    image: npt.NDArray[Any]
    truth: npt.NDArray[Any]
    prediction: npt.NDArray[Any]
    spacing: tuple[float, ...]


def save_picture(path: Path, title: str, examples: Sequence[Example]) -> None:
    """Save a picture with one row for each example; of a volume, the slice that shows most of the highest label.

    Parameters
    ----------
    path
        The PNG file.
    title
        The headline.
    examples
        At least one.
    """
    figure = Figure(figsize=(7.5, 2.45 * len(examples) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(len(examples), len(_COLUMNS), squeeze=False)
    highest = max(int(array.max()) for example in examples for array in (example.truth, example.prediction))
    for row, example in zip(axes, examples, strict=True):
        index: tuple[Any, ...] = ()
        if example.image.ndim == 3:
            shown = example.truth == example.truth.max()
            index = (int(np.argmax(shown.sum(axis=(1, 2)))),)
        aspect = example.spacing[-2] / example.spacing[-1]
        for axis, labels in zip(row, (None, example.truth, example.prediction), strict=True):
            axis.imshow(example.image[index], cmap="gray", aspect=aspect)
            if labels is not None:
                axis.imshow(
                    np.ma.masked_equal(labels[index], 0),
                    cmap=_COLOURS,
                    vmin=1,
                    vmax=max(highest, _COLOURS.N),
                    alpha=0.55,
                    aspect=aspect,
                    interpolation="nearest",
                )
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(example.title, fontsize="small")
    for axis, column in zip(axes[0], _COLUMNS, strict=True):
        axis.set_title(column)
    figure.savefig(path, dpi=120)
