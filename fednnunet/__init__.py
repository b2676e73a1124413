"""FednnU-Net: federated nnU-Net for hospitals that cannot share patient scans.

What stands in ``__all__`` is for programs; all else may change with any release.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fednnunet.api.comparisons import Comparison, compare
    from fednnunet.api.federations import evaluate, plan, train
    from fednnunet.api.folders import use_folders
    from fednnunet.api.run import Run
    from fednnunet.errors import FednnUNetError
    from fednnunet.weights.aggregation import register_aggregation
    from fednnunet.weights.server_optimizers import register_server_optimizer

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "FednnUNetError",
    "Run",
    "compare",
    "evaluate",
    "plan",
    "register_aggregation",
    "register_server_optimizer",
    "train",
    "use_folders",
]

_HOMES = {
    "Comparison": "api.comparisons",
    "FednnUNetError": "errors",
    "Run": "api.run",
    "compare": "api.comparisons",
    "evaluate": "api.federations",
    "plan": "api.federations",
    "register_aggregation": "weights.aggregation",
    "register_server_optimizer": "weights.server_optimizers",
    "train": "api.federations",
    "use_folders": "api.folders",
}


def __getattr__(name: str) -> Any:
    """Return what programs use; it is imported when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fednnunet' has no attribute '{name}'")
    value = globals()[name] = getattr(importlib.import_module(f"fednnunet.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


# Flower and gRPC read these when they are first imported, and every import of them in this project comes later.
# A program that runs inside hospitals reports to nobody:
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
# nnU-Net forks workers, none of which touches the connection; gRPC would complain about each of them:
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"
# it would also print a line for each client whose TLS handshake fails:
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
