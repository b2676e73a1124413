"""Scores a case by a network's raw outputs: mean cross entropy, and mean foreground Dice."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fednnunet.evaluation.metrics import dice
from fednnunet.labels import Labels, members

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class CaseScore:
    """How well a model fits a case.

    Attributes
    ----------
    loss
        Mean cross entropy of its voxels, nats; ``None`` if all of them are ignored.
    dice
        Mean Dice of the labels or regions that truth or prediction have; ``None`` if there are none.
    """

    loss: float | None
    dice: float | None

    @property
    def dice_loss(self) -> float | None:
        """One minus the Dice, which is low where a model fits, as the loss is."""
        return None if self.dice is None else 1 - self.dice


def mean_score(scores: Sequence[CaseScore]) -> CaseScore:
    """Return the means of several models' scores of a case; ``None`` where one of them has no value."""
    return CaseScore(_mean(score.loss for score in scores), _mean(score.dice for score in scores))


def score_logits(
    logits: "torch.Tensor", prediction: npt.NDArray[Any], truth: npt.NDArray[Any], labels: Labels
) -> CaseScore:
    """Return the scores of a case.

    Parameters
    ----------
    logits
        The network's outputs before softmax or sigmoid, shape ``(outputs, z, y, x)``.
    prediction, truth
        Label images of shape ``(z, y, x)``; in `truth`, -1 is background that nnU-Net has cropped, and voxels of the
        ignore label do not count.
    labels
        The labels, or regions.
    """
    truth = np.where(truth < 0, 0, truth).astype(np.int64)
    counts = np.ones(truth.shape, bool) if labels.ignore is None else truth != labels.ignore
    return CaseScore(_cross_entropy(logits, truth, counts, labels), _dice(prediction, truth, counts, labels))


def _cross_entropy(
    logits: "torch.Tensor", truth: npt.NDArray[np.int64], counts: npt.NDArray[np.bool_], labels: Labels
) -> float | None:
    """Return the mean over voxels; with regions, of the mean over their binary cross entropies, as in nnU-Net's loss.

    Slice by slice, as float32 copies of all outputs of a large case may need more memory than the prediction did.
    """
    import torch
    from torch.nn import functional as F

    total = 0.0
    for logit, true, there in zip(logits.unbind(1), truth, counts, strict=True):
        chosen = logit[:, torch.from_numpy(there).to(logit.device)].float().cpu()  # outputs, voxels
        if labels.has_regions:
            regions = np.stack([np.isin(true[there], region) for region in labels.outputs])
            wanted = torch.from_numpy(regions).float()
            total += float(F.binary_cross_entropy_with_logits(chosen, wanted, reduction="sum")) / len(wanted)
        else:
            total += float(F.cross_entropy(chosen.T, torch.from_numpy(true[there]), reduction="sum"))
    return total / int(counts.sum()) if counts.any() else None


def _dice(
    prediction: npt.NDArray[Any], truth: npt.NDArray[np.int64], counts: npt.NDArray[np.bool_], labels: Labels
) -> float | None:
    found = [
        dice(np.isin(truth, members(key)) & counts, np.isin(prediction, members(key)) & counts)
        for key in labels.foreground.values()
    ]
    there = [value for value in found if value is not None]
    return statistics.fmean(there) if there else None


def _mean(values: Iterable[float | None]) -> float | None:
    listed = list(values)
    there = [value for value in listed if value is not None]
    return statistics.fmean(there) if there and len(there) == len(listed) else None
