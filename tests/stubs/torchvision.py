"""Stands in for torchvision in the processes that tests and benchmarks start.

Looking for a trainer of ours, nnU-Net imports all of its own, and with them torchvision, which cannot be imported
beside a torch that comes from another index. No network of the tests uses any of it.
"""

import sys
from unittest.mock import MagicMock

__path__: list[str] = []

for _name in (
    "datasets",
    "models",
    "models.feature_extraction",
    "ops",
    "ops.misc",
    "transforms",
    "transforms.functional",
):
    sys.modules[f"{__name__}.{_name}"] = MagicMock()


def __getattr__(name: str) -> MagicMock:
    return MagicMock()
