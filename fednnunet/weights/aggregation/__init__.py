"""Aggregation rules: each combines the models of several sites into one; one rule per file, chosen by name.

All rules work element by element on any part of the models, so a model can be reduced slice by slice. All are
translation equivariant, so differences can be reduced instead of models.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from fednnunet.weights.aggregation.mean import weighted_mean
from fednnunet.weights.aggregation.median import median
from fednnunet.weights.aggregation.trimmed_mean import trimmed_mean

AggregationName = Literal["mean", "median", "trimmed_mean"]
Aggregation = Callable[[Sequence[np.ndarray], Sequence[int]], np.ndarray]
"""Takes slices of the sites' models, float32 and of one shape ``(n,)``, and their weights; gives float32, ``(n,)``."""

AGGREGATIONS: dict[AggregationName, Aggregation] = {
    "mean": weighted_mean,
    "median": median,
    "trimmed_mean": trimmed_mean,
}
