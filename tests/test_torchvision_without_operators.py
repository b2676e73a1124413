"""A made-up torchvision that, like the real one, cannot be imported without its operators."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.markdown import REPOSITORY

_COPY = REPOSITORY / "fednnunet" / "torchvision_without_operators.py"


@pytest.mark.parametrize("has_operators", [True, False])
@pytest.mark.parametrize("is_repaired", [True, False])
def test_torchvision_is_left_alone_unless_its_operators_are_missing(
    has_operators: bool, is_repaired: bool, tmp_path: Path
) -> None:
    torchvision = tmp_path / "torchvision"
    torchvision.mkdir()
    (torchvision / "extension.py").write_text(f"def _has_ops(): return {has_operators}\n")
    (torchvision / "_meta_registrations.py").write_text(
        "from torchvision.extension import _has_ops\nassert _has_ops(), 'operator does not exist'\nprint('described')\n"
    )
    (torchvision / "__init__.py").write_text("from torchvision import extension, _meta_registrations, ops\n")
    (torchvision / "ops.py").write_text("print('imported')\n")
    (tmp_path / "fednnunet_torchvision.py").write_text(_COPY.read_text("utf-8"))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    code += "import fednnunet_torchvision\n" * is_repaired + "import torchvision"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    if has_operators:
        assert done.stdout.split() == ["described", "imported"], done.stderr
    elif is_repaired:
        assert done.stdout.split() == ["imported"], done.stderr
    else:
        assert "operator does not exist" in done.stderr
