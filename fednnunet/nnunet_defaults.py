"""Values that nnU-Net 2.8.1 defines inside its commands."""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Found = TypeVar("Found")

_CHANGED = "changed size during iteration"
_SEARCHES = 50
"""More than enough: a module is imported in a moment, and there are few."""
_PREPROCESSING_PROCESSES = {"2d": 8, "3d_fullres": 4, "3d_lowres": 8}
_PREPROCESSING_PROCESSES_OTHERWISE = 4

FINAL_CHECKPOINT = "checkpoint_final.pth"
"""File that a finished training leaves in the folder of its fold."""

_STAGES = {"3d_cascade_fullres": ("3d_lowres", "3d_fullres")}


def preprocessing_processes(configuration: str) -> int:
    """Return the processes that preprocess a configuration (``plan_and_preprocess_entry``)."""
    return _PREPROCESSING_PROCESSES.get(configuration, _PREPROCESSING_PROCESSES_OTHERWISE)


def stages_of(configuration: str) -> tuple[str, ...]:
    """Return the configurations whose data a configuration needs: the cascade has none of its own, others have."""
    return _STAGES.get(configuration, (configuration,))


def model_folder_name(trainer: str, plans: str, configuration: str) -> str:
    """Return what nnU-Net calls the results folder of a model (``get_output_folder``)."""
    return f"{trainer}__{plans}__{configuration}"


def looked_up(look: Callable[[], Found]) -> Found:
    """Return what a search of nnU-Net's for a class finds.

    It goes through all modules that are imported (``recursive_find_python_class``), before it does anything else, and
    fails if another thread imports one meanwhile: then it is done again.
    """
    for _ in range(_SEARCHES):
        try:
            return look()
        except RuntimeError as error:
            if _CHANGED not in str(error):
                raise
    return look()


def planning_class(name: str) -> Any | None:
    """Return nnU-Net's planner or fingerprint extractor of this name, ``None`` if there is none."""
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = Path(nnunetv2.__path__[0]) / "experiment_planning"
    return recursive_find_python_class(str(folder), name, "nnunetv2.experiment_planning")


def use_device(name: str) -> "torch.device":
    """Set torch up for a device as nnU-Net's commands do; OMP_NUM_THREADS bounds the threads on a CPU."""
    import torch  # takes seconds

    if name == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or multiprocessing.cpu_count()))
    elif name == "cuda":
        torch.set_num_threads(1)
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = True
    return torch.device(name)


@contextlib.contextmanager
def planner_environment(**variables: str) -> Iterator[None]:
    """Set environment variables for a planner, and put them back afterwards.

    Planners take ``nnUNet_n_proc_DA`` for torch's number of threads (``static_estimate_VRAM_usage``), which must not be
    0; it is 1 meanwhile.
    """
    values = {"nnUNet_n_proc_DA": "1", **variables}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
