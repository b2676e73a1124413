"""Aggregation rules: each combines the models of several sites into one; one rule per file, chosen by name.

All rules work element by element on any part of the models, so a model can be reduced slice by slice. All are
translation equivariant, so differences can be reduced instead of models.
"""

from collections.abc import Callable, Sequence

import numpy as np

from fednnunet.errors import FednnUNetError
from fednnunet.weights.aggregation.mean import weighted_mean
from fednnunet.weights.aggregation.median import median
from fednnunet.weights.aggregation.trimmed_mean import trimmed_mean
from fednnunet.weights.registry import Registry

AggregationName = str
"""One of `AGGREGATIONS`."""
Aggregation = Callable[[Sequence[np.ndarray], Sequence[int]], np.ndarray]
"""Takes slices of the sites' models, float32 and of one shape ``(n,)``, and their weights; gives float32, ``(n,)``."""


def check_aggregation(rule: Aggregation) -> None:
    """Refuse a rule that does not give a float32 array of the models' shape.

    Raises
    ------
    FednnUNetError
        Says what it gives.
    """
    models = [np.full(3, value, np.float32) for value in (1, 2, 4)]
    result: object = rule(models, [1, 1, 2])
    if not isinstance(result, np.ndarray) or result.shape != (3,) or result.dtype != np.float32:
        what = f"{result.dtype} {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__
        raise FednnUNetError(f"of models of shape (3,) it makes {what}, not float32 (3,)")


AGGREGATIONS: Registry[Aggregation] = Registry(
    "aggregation",
    "fednnunet.aggregations",
    {
        "mean": weighted_mean,
        "median": median,
        "trimmed_mean": trimmed_mean,
    },
    check_aggregation,
)


def register_aggregation(name: str, rule: Aggregation) -> None:
    """Make a rule a value of ``--aggregation`` in this process; packages bring theirs with an entry point.

    Parameters
    ----------
    name
        Lower-case letters, digits and underscores.
    rule
        Takes slices of the sites' models, float32 and of one shape ``(n,)``, and their weights; returns float32 of
        shape ``(n,)``. It works element by element, and commutes with adding the same to every model.

    Raises
    ------
    FednnUNetError
        If the name is taken, or the rule does not return what it should.

    Examples
    --------
    >>> import numpy as np
    >>> import fednnunet as fed
    >>> def midrange(models, weights):
    ...     return (np.minimum.reduce(models) + np.maximum.reduce(models)) / np.float32(2)
    >>> fed.register_aggregation("midrange", midrange)
    """
    AGGREGATIONS.register(name, rule)
