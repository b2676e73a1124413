"""The threshold attack: takes cases with a low loss for those that a model was trained on.

The attack is that of Yeom et al., *Privacy risk in machine learning* (CSF 2018), for every threshold at once: its area
under the ROC curve (AUC) is the probability that a case trained on has a lower loss than one held out.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FEWEST = 8
"""With fewer cases in a group, an interval spans half of all AUCs (0.4 to 0.7 in simulations with 4 to 6 cases)."""
_LITTLE = 0.6
"""An AUC that is certainly not above this counts as little."""
_RESAMPLES = 5000
_BATCH = 500
_SEED = 0

Verdict = Literal["tells", "little", "unclear", "too few cases"]
"""What an AUC means: above chance; at most little above; either may be; no interval can be trusted."""


@dataclass(frozen=True)
class Estimate:
    """An AUC with the ends of its 95 % interval, which are ``None`` for a group of one case."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Attack:
    """The attack by one score.

    Attributes
    ----------
    trained, held_out
        Number of cases trained on, and held out; both are the number of pairs where the attack is paired.
    auc
        ``None`` if a group is empty.
    recognized
        Number of cases trained on with a lower loss than every held-out case: true positives without a false one, the
        lowest false-positive rate that so many held-out cases resolve. ``None`` where the attack is paired.
    """

    trained: int
    held_out: int
    auc: Estimate | None = None
    recognized: int | None = None

    @property
    def verdict(self) -> Verdict:
        """What the AUC means."""
        auc = self.auc
        if auc is None or auc.low is None or auc.high is None or min(self.trained, self.held_out) < FEWEST:
            return "too few cases"
        if auc.low > 0.5:
            return "tells"
        return "little" if auc.high <= _LITTLE else "unclear"


def attack(trained: Sequence[float], held_out: Sequence[float]) -> Attack:
    """Attack a model by the losses of two groups of cases.

    The interval is that of the bootstrap (percentiles), which draws cases of each group. Where the groups do not
    overlap, every draw is the same; then it is Clopper and Pearson's for as many pairs as can be made of different
    cases, all of which the attack has right.

    Parameters
    ----------
    trained, held_out
        Loss of each case trained on, and of each held out.
    """
    groups = np.asarray(trained, np.float64), np.asarray(held_out, np.float64)
    sizes = len(trained), len(held_out)
    if not min(sizes):
        return Attack(*sizes)
    recognized = int((groups[0] < groups[1].min()).sum())
    return Attack(*sizes, _estimate(groups, area_under_curve, paired=False), recognized)


def paired_attack(trained: Sequence[float], held_out: Sequence[float]) -> Attack:
    """Attack models trained on a case by comparison with one that was not, case by case.

    The AUC is the share of cases with a lower loss where trained on; a tie counts half. The interval is as in
    `attack`.

    Parameters
    ----------
    trained, held_out
        Loss of each case at models trained on it, and at one that was not; the same cases in the same order.
    """
    groups = np.asarray(trained, np.float64), np.asarray(held_out, np.float64)
    cases = len(groups[0])
    return Attack(cases, cases, _estimate(groups, _share_below, paired=True) if cases else None)


def area_under_curve(
    trained: npt.NDArray[np.float64], held_out: npt.NDArray[np.float64], axis: int = -1
) -> npt.NDArray[np.float64]:
    """Return the AUC, which is Mann and Whitney's U over the number of pairs; a tie counts half.

    Parameters
    ----------
    trained, held_out
        Losses along `axis`; other axes are those of independent groups.
    axis
        The last one.
    """
    from scipy.stats import mannwhitneyu

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a p-value of groups of equal losses
        above = mannwhitneyu(held_out, trained, axis=axis, method="asymptotic").statistic
    return np.asarray(above / (trained.shape[axis] * held_out.shape[axis]))


def _share_below(
    trained: npt.NDArray[np.float64], held_out: npt.NDArray[np.float64], axis: int = -1
) -> npt.NDArray[np.float64]:
    return np.asarray(((trained < held_out) + 0.5 * (trained == held_out)).mean(axis=axis))


def roc_curve(
    trained: Sequence[float], held_out: Sequence[float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the false- and true-positive rates of all thresholds, from none to all of the cases.

    Parameters
    ----------
    trained, held_out
        Losses.
    """
    thresholds = np.unique([*trained, *held_out])
    rates = [np.searchsorted(np.sort(group), thresholds, "right") / len(group) for group in (held_out, trained)]
    false, true = (np.concatenate([[0.0], rate]) for rate in rates)
    return false, true


def _estimate(groups: tuple[npt.NDArray[np.float64], ...], statistic: Callable[..., Any], *, paired: bool) -> Estimate:
    value, pairs = float(statistic(*groups)), min(len(group) for group in groups)
    if pairs < 2:
        return Estimate(value, None, None)
    if value in (0.0, 1.0):
        from scipy.stats import binomtest

        exact = binomtest(round(value * pairs), pairs).proportion_ci()
        return Estimate(value, float(exact.low), float(exact.high))
    from scipy.stats import bootstrap

    found = bootstrap(
        groups,
        statistic,
        paired=paired,
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return Estimate(value, float(found.low), float(found.high))
