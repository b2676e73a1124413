"""Settings of a training, made by the coordinator; larger settings inherit from these."""

from dataclasses import dataclass
from typing import Literal

from fednnunet.protocol.messages import OptimizerStateName
from fednnunet.weights.aggregation import AggregationName
from fednnunet.weights.encoding import EncodingName
from fednnunet.weights.server_optimizers import ServerOptimizerName

WeightingName = Literal["cases", "uniform"]


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How long a training is; ``None`` leaves a number to the trainer.

    Attributes
    ----------
    rounds
        Rounds of a fold.
    local_epochs
        Epochs between two exchanges of weights.
    iterations_per_epoch, val_iterations_per_epoch
        Training and validation iterations of an epoch.
    """

    rounds: int | None = None
    local_epochs: int = 1
    iterations_per_epoch: int | None = None
    val_iterations_per_epoch: int | None = None


@dataclass(frozen=True, kw_only=True)
class AveragingSettings:
    """What is averaged, and how.

    Attributes
    ----------
    encoding
        How weights travel.
    weighting
        Whether a site counts by its training cases, or all count the same.
    aggregation
        How one model is made of the sites'.
    server_optimizer, server_lr
        What is made of the difference to the last global model, and its learning rate (``None``: the optimizer's own).
    proximal_mu
        FedProx's weight of the distance to the global model.
    optimizer_state
        Whether the optimizer's momentum is averaged with the weights, stays at its site, or is forgotten.
    keep_local
        Which tensors stay at each site: ``norm``, a regular expression, or ``None`` for none.
    asym_cohorts
        Whether, with asymmetric plans, a tensor is averaged among every group of sites that have it.
    """

    encoding: EncodingName = "float16"
    weighting: WeightingName = "cases"
    aggregation: AggregationName = "mean"
    server_optimizer: ServerOptimizerName = "none"
    server_lr: float | None = None
    proximal_mu: float = 0.0
    optimizer_state: OptimizerStateName = "average"
    keep_local: str | None = None
    asym_cohorts: bool = False


@dataclass(frozen=True, kw_only=True)
class OwnModelSettings:
    """Which models the sites train beside the federation's.

    Attributes
    ----------
    personalize
        Epochs for which each site trains the federation's model on; ``None`` for no personal models.
    alone
        Whether each site also trains one alone.
    """

    personalize: int | None = None
    alone: bool = False


@dataclass(frozen=True, kw_only=True)
class RecoverySettings:
    """What is kept of a training, and how it goes on without some of the sites.

    Attributes
    ----------
    resume
        Whether to continue the training that is kept.
    overwrite
        Whether a training that is kept, and not finished, may be replaced.
    save_every
        Rounds between two states that are kept.
    min_clients
        Sites without which no round is completed; ``None`` for all.
    max_update_norm
        How many times the others' median norm an update may have; ``None`` for no limit.
    give_up_after
        Seconds to wait for sites without which nothing goes on; ``None`` for ever.
    """

    resume: bool = False
    overwrite: bool = False
    save_every: int = 1
    min_clients: int | None = None
    max_update_norm: float | None = None
    give_up_after: float | None = None
