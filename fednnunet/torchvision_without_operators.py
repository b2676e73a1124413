"""Makes torchvision importable although its compiled operators do not match the installed torch.

nnU-Net looks for a trainer by importing all of its own, and with them timm and torchvision. None of them needs an
operator, but torchvision describes its operators to torch on import, which fails without them.

In such an environment, ``install.sh`` copies this file as ``fednnunet_torchvision.py``, and lets
``fednnunet_torchvision.pth`` import it when Python starts. It does not change torchvision, and does nothing if its
operators work; to undo it, delete the two files.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

_DESCRIPTIONS = "torchvision._meta_registrations"


class _NoDescriptions:
    """Finds, and loads, an empty module in place of torchvision's descriptions of operators that are not there."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return where the module is; ``None`` leaves that to Python."""
        if fullname != _DESCRIPTIONS:
            return None
        # torchvision imports this one before
        has_operators = getattr(sys.modules.get("torchvision.extension"), "_has_ops", None)
        return None if has_operators is None or has_operators() else ModuleSpec(fullname, self)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python make the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module empty."""


sys.meta_path.insert(0, _NoDescriptions())
