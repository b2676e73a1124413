"""What all sites of a sum must agree on; each site, and the coordinator, makes it of what it knows itself."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fednnunet.folds import Fold
from fednnunet.protocol.secure_aggregation import SumRequest
from fednnunet.secure_aggregation.attempts import Context
from fednnunet.weights.fixed_point import FixedPoint

_VERSION = 1


@dataclass(frozen=True)
class TrainingFacts:
    """What is the same for all sums of a training.

    Attributes
    ----------
    run, fold
        Name of the training, and its fold.
    sites_digest
        Digest of the list of sites.
    """

    run: str
    fold: Fold
    sites_digest: str


def update_context(
    facts: TrainingFacts, request: SumRequest, members: Sequence[str], fixed: FixedPoint, model: np.ndarray
) -> Context:
    """Return what the sum of updates of one group, in one round, is about.

    Parameters
    ----------
    facts
        Of the training.
    request
        What the coordinator asks for.
    members
        All sites of the group.
    fixed
        How numbers are written.
    model
        The weights that the sites had at the beginning of the round: shape ``(n,)``, float32.
    """
    return {
        "version": _VERSION,
        "purpose": request.purpose,
        "run": facts.run,
        "fold": str(facts.fold),
        "round": request.round,
        "layout": request.group,
        "members": list(members),
        "bits": fixed.bits,
        "total weight": request.total,
        "weights by cases": request.by_cases,
        "global model": hashlib.sha256(model.astype("<f4", copy=False).data).hexdigest(),
        "ranges": hashlib.sha256(fixed.exponents.tobytes()).hexdigest(),
        "list of sites": facts.sites_digest,
    }
