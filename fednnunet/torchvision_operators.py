"""Lets torchvision be imported beside a torch that its compiled operators were not built for.

nnU-Net imports torchvision (through timm) whenever it looks for a trainer other than its default, and uses none of
these operators; but torchvision describes two of them to torch on import, which fails where they could not be loaded,
as with torch for CPUs beside torchvision for CUDA. Declaring the two is enough, and where the operators can be loaded
nothing is declared. A call of one without the other half fails with torchvision's own explanation.

``install.sh`` puts this file into an environment that needs it, as ``fednnunet_torchvision.py``, with a
``fednnunet_torchvision.pth`` that calls `watch` when Python starts; to undo that, delete both. So it works for
nnU-Net's own commands too, imports nothing of this package, and costs nothing until torchvision is imported.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_NAME = "torchvision"
_DECLARED = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))
_kept: list[object] = []
"""torch forgets declarations when the object that made them is gone."""


class _BeforeImport:
    """Finds nothing; runs `declare_missing` when torchvision is looked for."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == _NAME:
            declare_missing()
        return None


def watch() -> None:
    """Have `declare_missing` run just before torchvision is imported."""
    sys.meta_path.insert(0, _BeforeImport())


def declare_missing() -> None:
    """Declare the operators that torchvision describes on import, if those that it brings cannot be loaded."""
    found = PathFinder.find_spec(_NAME)
    if _kept or found is None or not found.submodule_search_locations:
        return
    import torch.library

    for folder in found.submodule_search_locations:
        for name in os.listdir(folder):
            if name.startswith("_C."):
                with contextlib.suppress(ImportError, OSError):
                    torch.ops.load_library(os.path.join(folder, name))  # type: ignore[no-untyped-call]
                    return
    declared = torch.library.Library(_NAME, "DEF")  # type: ignore[no-untyped-call]
    for schema in _DECLARED:
        declared.define(schema)  # type: ignore[no-untyped-call]
    _kept.append(declared)


if __name__ == "fednnunet_torchvision":
    watch()
