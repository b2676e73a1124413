"""Computes the norms of the sites' updates, and finds outliers.

One site can move a mean arbitrarily far (Blanchard et al., *Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent*, NeurIPS 2017, lemma 1), and needs a large update for that: Sun et al., *Can You Really Backdoor
Federated Learning?*, 2019, limit the norms of updates for that reason. This module only reports norms.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

FACTOR = 5.0
"""How many times as large as is usual an update may be."""

FAR = 1000.0
"""How many times as large as the largest weight of the last model, or as 1, a weight may become in one round.

Honest rounds do not come near this, normalization's statistics in the first one included. One number of 1e30 makes a
network overflow, and then the next updates of all sites are NaN.
"""


@dataclass(frozen=True)
class Norms:
    """How large the updates of a round are, of each site that shares anything.

    Attributes
    ----------
    weights
        The root of the mean square of what an update would change of the weights that the site shares, so that sites
        can be compared that do not share the same.
    optimizer
        The same of what optimizers remember; of no site if that stays at the sites.
    """

    weights: dict[str, float]
    optimizer: dict[str, float]

    def outliers(self, factor: float = FACTOR) -> dict[str, float]:
        """Return the findings of `outliers` in either."""
        found = outliers(self.weights, factor)
        for site, ratio in outliers(self.optimizer, factor).items():
            found[site] = max(ratio, found.get(site, 0.0))
        return found


_CHUNK = 1 << 13
"""Elements that stay in the processor's cache, and too few for numpy's dot product to wake other threads."""


def squared_norm(values: np.ndarray, known: np.ndarray | None = None) -> float:
    """Return the squared L2 norm of `values`, or of their difference to `known`.

    The sum runs in float64, which holds the square of any float32.

    Parameters
    ----------
    values
        Finite numbers, float32 of shape ``(n,)``.
    known
        Finite numbers, float32 of the same shape; zeros if not given.
    """
    total = 0.0
    memory = np.empty(min(_CHUNK, len(values)), np.float64)
    for start in range(0, len(values), _CHUNK):
        part = values[start : start + _CHUNK]
        exact = memory[: len(part)]
        exact[:] = part
        if known is not None:
            exact -= known[start : start + _CHUNK]
        total += float(np.dot(exact, exact))
    return total


def outliers(norms: Mapping[str, float], factor: float = FACTOR) -> dict[str, float]:
    """Find the sites whose updates are much larger than is usual among the others.

    One or two sites do not determine which one is the outlier, so none is returned.

    Parameters
    ----------
    norms
        Of each site's update; finite, and not negative. If sites share different numbers of parameters, of one
        parameter on average.
    factor
        How many times the median of the other sites' norms is too much; at least 1.

    Returns
    -------
    How many times that median it is, for each site for which it is more than `factor`, in the order of `norms`. It is
    infinite for a site that changes the model while most of the others do not.
    """
    if len(norms) < 3:
        return {}
    ratios = {}
    for site, norm in norms.items():
        usual = statistics.median(other for name, other in norms.items() if name != site)
        if norm > factor * usual:
            ratios[site] = norm / usual if usual else math.inf
    return ratios
