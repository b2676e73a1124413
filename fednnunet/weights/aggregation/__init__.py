"""How one model is made of those of several sites: one rule per file, chosen by name.

All rules work element by element on whatever part of the models they are given, so a model can be reduced slice by
slice, and all commute with adding the same to every model, so differences can be reduced instead of models.
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
