"""Draws the losses of both groups of cases, and the ROC curve of the attack."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fednnunet.evaluation.gain import TITLES, ModelName
from fednnunet.membership.attack import roc_curve
from fednnunet.membership.auditing import Audit

_TRAINED, _HELD_OUT = "#d1495b", "#1f9e9e"
_GREY = "#888888"
_BINS = 20


def draw(path: Path, audits: Mapping[ModelName, Audit]) -> None:
    """Write a PNG file with one row for each model.

    Parameters
    ----------
    path
        The file, whatever it is called.
    audits
        At least one.
    """
    figure = Figure(figsize=(9, 3.2 * len(audits)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(audits), 2, squeeze=False, width_ratios=(3, 2))
    for (name, audit), (left, right) in zip(audits.items(), rows, strict=True):
        trained, held_out = audit.values("loss")
        left.set_title(TITLES[name], loc="left")
        if not trained or not held_out:
            continue
        if audit.paired:
            _draw_pairs(left, trained, held_out)
            _draw_differences(right, trained, held_out)
        else:
            _draw_groups(left, trained, held_out)
            _draw_curve(right, trained, held_out)
    figure.savefig(path, format="png", dpi=120)


def _draw_groups(axes: Axes, trained: Sequence[float], held_out: Sequence[float]) -> None:
    """Draw a point for each case over a histogram of its group."""
    both = np.array([*trained, *held_out])
    bins = np.histogram_bin_edges(both, _BINS)
    for height, (group, colour) in enumerate(((held_out, _HELD_OUT), (trained, _TRAINED))):
        share, _ = np.histogram(group, bins)
        axes.bar(
            bins[:-1], 0.7 * share / max(share.max(), 1), np.diff(bins), height, align="edge", color=colour, alpha=0.3
        )
        axes.plot(group, np.full(len(group), height + 0.1), "|", color=colour, markersize=12)
    axes.set_yticks([0.1, 1.1], [f"held out ({len(held_out)})", f"trained on ({len(trained)})"])
    axes.set_xlabel("mean cross entropy of a case")


def _draw_curve(axes: Axes, trained: Sequence[float], held_out: Sequence[float]) -> None:
    axes.plot([0, 1], [0, 1], ":", color=_GREY)
    axes.step(*roc_curve(trained, held_out), where="post", color=_TRAINED)
    axes.set(xlabel="false-positive rate", ylabel="true-positive rate", aspect="equal")


def _draw_pairs(axes: Axes, trained: Sequence[float], held_out: Sequence[float]) -> None:
    both = [*trained, *held_out]
    axes.plot([min(both), max(both)], [min(both), max(both)], ":", color=_GREY)
    axes.plot(trained, held_out, "o", color=_TRAINED, alpha=0.6)
    axes.set(xlabel="mean cross entropy of a case where trained on", ylabel="where held out")


def _draw_differences(axes: Axes, trained: Sequence[float], held_out: Sequence[float]) -> None:
    axes.hist(np.subtract(held_out, trained), _BINS, color=_TRAINED, alpha=0.6)
    axes.axvline(0, linestyle=":", color=_GREY)
    axes.set(xlabel="held out minus trained on", ylabel="cases")
