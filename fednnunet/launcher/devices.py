"""Assigns GPUs and CPU cores to the sites of a simulated federation.

nnU-Net expects a machine to itself and starts as many workers as suit it; here it shares one with the other sites.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fednnunet.errors import FednnUNetError
from fednnunet.nnunet_defaults import preprocessing_processes
from fednnunet.wording import counted

DEFAULT_PROCESSES = 8
"""nnU-Net's ``default_num_processes`` (``configuration.py``)."""
AUGMENTATION_PROCESSES = 12
"""nnU-Net's augmentation workers beside one GPU (``default_n_proc_DA.py``)."""


@dataclass(frozen=True)
class Share:
    """What one site gets of the machine.

    Parameters
    ----------
    description
        The share in words, for people.
    environment
        The environment variables that make nnU-Net keep to it.
    """

    description: str
    environment: dict[str, str] = field(default_factory=dict)


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_per_site(cores: int, sites: int) -> int:
    """Return the cores of each site, at least 1."""
    return max(1, cores // sites)


def visible_gpus(environment: Mapping[str, str], count: int) -> list[str]:
    """Return the GPUs that may be dealt, as ``CUDA_VISIBLE_DEVICES`` spells them.

    Parameters
    ----------
    environment
        Environment of the launcher; a ``CUDA_VISIBLE_DEVICES`` in it limits the choice.
    count
        Number of GPUs that CUDA finds under that environment.
    """
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return [str(index) for index in range(count)]
    return [name.strip() for name in listed.split(",")][:count]


def deal_gpus(visible: Sequence[str], sites: int, chosen: Sequence[str] | None = None) -> list[str]:
    """Return the GPU of each site: round robin, unless `chosen` names them.

    Parameters
    ----------
    visible
        The GPUs that may be dealt, see `visible_gpus`.
    sites
        Number of sites.
    chosen
        One entry for each site: the number of a GPU as CUDA programs count them, that is its place in `visible`;
        or an entry of `visible` that is no number (``GPU-8932…``).

    Raises
    ------
    FednnUNetError
        If there is no GPU, or not the chosen one.
    """
    if not visible:
        raise FednnUNetError(
            "No GPU is visible to PyTorch: check the driver and CUDA_VISIBLE_DEVICES, or train with -device cpu."
        )
    if chosen is None:
        return [visible[site % len(visible)] for site in range(sites)]
    return [_chosen_gpu(visible, choice) for choice in chosen]


def _chosen_gpu(visible: Sequence[str], choice: str) -> str:
    if choice.isdecimal() and int(choice) < len(visible):
        return visible[int(choice)]
    if not choice.isdecimal() and choice in visible:
        return choice
    last = len(visible) - 1
    there = "0" if last == 0 else f"0 to {last}"
    listed = (
        "" if all(name.isdecimal() and int(name) < len(visible) for name in visible) else f" ({', '.join(visible)})"
    )
    raise FednnUNetError(f"--gpus: invalid GPU {choice}; the visible ones are {there}{listed}.")


def training_shares(
    device: str, gpus: Sequence[str] | None, sites: int, cores: int, environment: Mapping[str, str]
) -> list[Share]:
    """Return what each site gets of the machine for a training.

    Parameters
    ----------
    device
        nnU-Net's ``-device``: cuda, cpu or mps.
    gpus
        The GPU of each site (`deal_gpus`); for cuda only.
    sites
        Number of sites.
    cores
        CPU cores of the machine.
    environment
        Environment of the launcher: what the user has set there, other than ``CUDA_VISIBLE_DEVICES``, stands.
    """
    share = cores_per_site(cores, sites)
    if device == "cpu":
        wanted = {
            "OMP_NUM_THREADS": share,
            # 0: nnU-Net augments in the training process, which a single core does faster than two processes
            "nnUNet_n_proc_DA": share if share >= 2 else 0,
            "nnUNet_def_n_proc": share,
        }
    else:
        wanted = {
            "nnUNet_n_proc_DA": min(AUGMENTATION_PROCESSES, share),
            "nnUNet_def_n_proc": min(DEFAULT_PROCESSES, share),
        }
    common = _unless_set(wanted, environment)
    if gpus is None:
        return [Share(f"{device}, {_cores(share, sites, cores)}", common)] * sites
    return [
        Share(
            f"GPU {gpu}{_sharing(gpus.count(gpu))}, {_cores(share, sites, cores)}",
            {**common, "CUDA_VISIBLE_DEVICES": gpu},
        )
        for gpu in gpus
    ]


def planning_share(sites: int, cores: int, environment: Mapping[str, str]) -> Share:
    """Return what each site gets of the machine for fingerprint, plans and preprocessing, which use no GPU."""
    share = cores_per_site(cores, sites)
    wanted = {
        # nnU-Net works on several cases at once, so a process needs few threads
        "OMP_NUM_THREADS": max(1, share // DEFAULT_PROCESSES),
        # never 0: nnU-Net's planner takes this for a number of threads
        "nnUNet_n_proc_DA": min(AUGMENTATION_PROCESSES, share),
        "nnUNet_def_n_proc": min(DEFAULT_PROCESSES, share),
    }
    return Share(_cores(share, sites, cores), _unless_set(wanted, environment))


def planning_processes(configurations: Sequence[str], share: int) -> list[int]:
    """Return the preprocessing processes of one site for each configuration: nnU-Net's, but no more than its cores."""
    return [min(preprocessing_processes(name), share) for name in configurations]


def _unless_set(wanted: Mapping[str, int], environment: Mapping[str, str]) -> dict[str, str]:
    return {name: str(value) for name, value in wanted.items() if name not in environment}


def _cores(share: int, sites: int, cores: int) -> str:
    if sites > cores:
        return f"{counted(cores, 'CPU core')} for all {sites} sites"
    return counted(share, "CPU core")


def _sharing(sites: int) -> str:
    return "" if sites == 1 else f" (shared by {sites} sites)"
