"""The four methods that are compared."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Method:
    """A way of training.

    Parameters
    ----------
    name
        What it is called on the command line.
    title
        What the table calls it.
    plans
        Whose plans it trains with: each site's own, the federation's, or those of the pooled data.
    is_federated
        Whether the sites average weights.
    is_personal
        Whether each site ends with a model of its own.
    """

    name: str
    title: str
    plans: Literal["own", "common", "pooled"]
    is_federated: bool
    is_personal: bool

    @property
    def is_pooled(self) -> bool:
        """Whether one model is trained with the data of all sites."""
        return self.plans == "pooled"


METHODS = {
    method.name: method
    for method in (
        Method("local", "Local", "own", is_federated=False, is_personal=True),
        Method("asym", "AsymFedAvg", "own", is_federated=True, is_personal=True),
        Method("ffe", "FFE", "common", is_federated=True, is_personal=False),
        Method("centralized", "Centralized", "pooled", is_federated=False, is_personal=False),
    )
}
"""By name, in the table's order."""
