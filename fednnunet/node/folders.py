"""Checks that nnU-Net's folders exist and are writable."""

import os
from pathlib import Path

from fednnunet.errors import FednnUNetError
from fednnunet.node.dataset import nnunet_folder
from fednnunet.protocol.messages import Task

_WRITTEN: dict[Task, tuple[str, ...]] = {
    "extract_fingerprint": ("nnUNet_preprocessed",),
    "plan_and_preprocess": ("nnUNet_preprocessed",),
    "train": ("nnUNet_preprocessed", "nnUNet_results"),
    "evaluate": (),
}


def check_folders(task: Task) -> None:
    """Check that a task's input folders exist, and that its output folders are writable or can be created.

    Raises
    ------
    FednnUNetError
        Names the environment variable that is not set, or not right.
    """
    if task != "train":
        check_readable("nnUNet_raw")
    for variable in _WRITTEN[task]:
        _check_writable(variable)


def check_readable(variable: str) -> None:
    """Check that a folder of nnU-Net exists.

    Raises
    ------
    FednnUNetError
        Names the environment variable that is not set, or not right.
    """
    folder = nnunet_folder(variable)
    if not folder.is_dir():
        raise FednnUNetError(f"{variable} names {folder}, which is not a folder: correct it.")


def _check_writable(variable: str) -> None:
    folder = nnunet_folder(variable).absolute()
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not Path(there).is_dir():
        raise FednnUNetError(f"{variable} names {folder}, but {there} is not a folder: correct it.")
    try:
        folder.mkdir(parents=True, exist_ok=True)  # permissions do not tell all: nobody can make one in /proc
        is_writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        is_writable = False
    if not is_writable:
        raise FednnUNetError(f"{variable} names {folder}, but {there} is not writable: check its permissions.")
