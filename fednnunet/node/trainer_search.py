"""Looks up a trainer like nnU-Net, and explains a failure.

nnU-Net looks for a trainer by importing its own modules one after the other, and then those in ``nnUNet_extTrainer``: a
module that cannot be imported ends the search, even if it is unrelated to the trainer.
"""

import difflib
import os
import re
import traceback
from importlib.metadata import version
from pathlib import Path

import nnunetv2

from fednnunet.errors import FednnUNetError
from fednnunet.node.trainer_hooks import DEFAULT_TRAINER

_EXTERNAL = "nnUNet_extTrainer"
_TRAINER_CLASS = re.compile(r"^class\s+(\w+)\(\w*Trainer", re.MULTILINE)
_LONGEST_REASON = 200


def check_trainer(name: str) -> None:
    """Check that nnU-Net finds a trainer of this name.

    Raises
    ------
    FednnUNetError
        If it does not; names the file or the package that is to blame.
    """
    if name == DEFAULT_TRAINER:
        return  # looking for it would import torch, which takes seconds
    from nnunetv2.utilities import find_objects

    try:
        find_objects.recursive_find_trainer_class_by_name(name)
    except (Exception, SystemExit) as error:  # what is imported may fail in any way
        places = _places(error)
        if places[-1][0] != Path(str(find_objects.__file__)):
            raise FednnUNetError(_complaint(name, error, places)) from error
        if isinstance(error, AssertionError):
            raise FednnUNetError(
                f"{name} is not a trainer: it does not derive from {DEFAULT_TRAINER}; correct -tr."
            ) from None
        raise FednnUNetError(_unknown(name)) from None


def _unknown(name: str) -> str:
    """Return the message about an unknown trainer, with similar names."""
    external = os.environ.get(_EXTERNAL)
    missing = [folder for folder in _external_folders() if not folder.is_dir()]
    if missing:
        where = f", and {_EXTERNAL} names {missing[0]}, which is not a folder"
    else:
        where = f" and {external}" if external else f" ({_EXTERNAL}, for custom trainers, is not set)"
    folders = [Path(nnunetv2.__path__[0]) / "training" / "nnUNetTrainer", *_external_folders()]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    names = {found for path in files for found in _TRAINER_CLASS.findall(path.read_text("utf-8", errors="replace"))}
    alike = difflib.get_close_matches(name, sorted({DEFAULT_TRAINER, *names}), n=3)
    hint = f", did you mean {' or '.join(alike)}?" if alike else "."
    return f"No trainer '{name}' in nnU-Net{where}: correct -tr{hint}"


def _external_folders() -> list[Path]:
    return [Path(path).absolute() for path in os.environ.get(_EXTERNAL, "").split(os.pathsep) if path.strip()]


def _complaint(name: str, error: BaseException, places: list[tuple[Path, int]]) -> str:
    """Return which module has ended the search for a trainer."""
    text = str(error.msg if isinstance(error, SyntaxError) else error)
    reason = f"{type(error).__name__}: {text.partition(chr(10))[0][:_LONGEST_REASON].rstrip('.')}"
    packages = [package for path, _ in places if (package := _package(path)) is not None]
    if isinstance(error, ModuleNotFoundError) and error.name:
        packages.append(error.name.partition(".")[0])
    if "torchvision" in packages:
        return (
            "nnU-Net looks for a trainer by importing all of its own, for which torchvision cannot be imported "
            f"({reason}): run install.sh, or install the build of torchvision that fits torch {version('torch')}."
        )
    for path, line in reversed(places):
        if any(path.is_relative_to(folder) for folder in _external_folders()):
            return f"Looking for {name}, nnU-Net imports {path}, which fails in line {line} ({reason}): correct it."
    package = packages[0] if packages else "one of them"
    return (
        f"nnU-Net looks for {name} by importing all of its own trainers, for which {package} cannot be imported "
        f"({reason}): repair the installation."
    )


def _places(error: BaseException) -> list[tuple[Path, int]]:
    """Return files and lines through which an error has come; where it began is the last one."""
    places = [(Path(frame.filename), frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((Path(error.filename), error.lineno or 0))
    return places


def _package(path: Path) -> str | None:
    """Return the package that is installed and holds a file; nnU-Net and its networks do not count."""
    _, found, after = str(path).partition(f"{os.sep}site-packages{os.sep}")
    package = after.split(os.sep)[0].removesuffix(".py")
    return package if found and package not in {"nnunetv2", "dynamic_network_architectures"} else None
