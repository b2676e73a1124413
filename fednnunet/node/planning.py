"""The node of the tasks ``extract_fingerprint`` and ``plan_and_preprocess``."""

import argparse
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import nnunetv2
from batchgenerators.utilities.file_and_folder_operations import load_json, save_json
from flwr.common import NDArrays, Scalar
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset, preprocess_dataset
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from fednnunet.channel.messages import CommonPlans, Installed
from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.fingerprint import Fingerprint
from fednnunet.fingerprint.plans import plans_digest
from fednnunet.nnunet_defaults import preprocessing_processes
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.site_client import SiteClient

logger = logging.getLogger(__name__)

COMMON_FINGERPRINT = "dataset_fingerprint.json"
LOCAL_FINGERPRINT = "dataset_fingerprint_local.json"

_STAGES = {"3d_cascade_fullres": ("3d_lowres", "3d_fullres")}
"""The cascade has no data of its own, it works on that of two other configurations."""


class PlanningClient(SiteClient):
    """Extracts the site's fingerprint, installs the common one and the common plans, and preprocesses."""

    def work(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[NDArrays, int]:
        """Return the site's own fingerprint, as `Fingerprint.to_arrays` gives it, and its number of cases."""
        fingerprint = local_fingerprint(self.arguments, self.dataset, self.hello.cases)
        return fingerprint.to_arrays(), fingerprint.cases

    def receive(self, parameters: NDArrays, config: dict[str, Scalar]) -> Installed:
        """Install the common fingerprint and, where there are any, the common plans; then preprocess."""
        common = CommonPlans.from_json(str(config["body"]))
        _write_json(Fingerprint.from_arrays(parameters).to_nnunet(), self.dataset.preprocessed / COMMON_FINGERPRINT)
        if common.plans is None:
            return Installed()
        install_plans(common.plans, self.dataset)
        if not self.arguments.no_pp:
            preprocess(self.arguments, self.dataset, common.plans)
        return Installed(plans_digest=plans_digest(common.plans))


def local_fingerprint(arguments: argparse.Namespace, dataset: SiteDataset, cases: int) -> Fingerprint:
    """Return the site's own fingerprint, extracted by nnU-Net's extractor unless an earlier one can be used.

    It is kept as ``dataset_fingerprint_local.json`` and used again, as nnU-Net does with its own, unless ``--clean``
    is given or the number of cases has changed.
    """
    kept = dataset.preprocessed / LOCAL_FINGERPRINT
    if kept.is_file() and not arguments.clean:
        fingerprint = Fingerprint.from_nnunet(load_json(str(kept)))
        if fingerprint.cases == cases:
            logger.info("Using the local fingerprint %s; --clean extracts it again", kept)
            return fingerprint
    extractor = recursive_find_python_class(
        str(Path(nnunetv2.__path__[0]) / "experiment_planning"), arguments.fpe, "nnunetv2.experiment_planning"
    )
    extract_fingerprint_dataset(
        dataset.id,
        extractor,
        arguments.npfp if arguments.task == "plan_and_preprocess" else arguments.np,
        check_dataset_integrity=arguments.verify_dataset_integrity,
        clean=True,  # what stands there may be the common one of an earlier federation
        verbose=arguments.verbose,
        show_progress_bar=not arguments.no_pbar,
    )
    os.replace(dataset.preprocessed / COMMON_FINGERPRINT, kept)
    return Fingerprint.from_nnunet(load_json(str(kept)))


def install_plans(plans: dict[str, object], dataset: SiteDataset) -> None:
    """Put common plans, ``dataset.json`` and, if the site brings one, its split where nnU-Net looks for them.

    Nothing in the plans changes but the name of the dataset.

    Raises
    ------
    FednnUNetError
        If the split in the raw folder is not the one that preprocessing has used before.
    """
    _write_json({**plans, "dataset_name": dataset.name}, dataset.preprocessed / f"{plans['plans_name']}.json")
    shutil.copyfile(dataset.raw / "dataset.json", dataset.preprocessed / "dataset.json")
    brought, used = dataset.raw / "splits_final.json", dataset.preprocessed / "splits_final.json"
    if not brought.is_file():
        return
    if not used.is_file():
        shutil.copyfile(brought, used)
    elif load_json(str(brought)) != load_json(str(used))[: len(load_json(str(brought)))]:
        raise FednnUNetError(f"{brought} and {used} name different folds: delete the one that is out of date.")


def preprocess(arguments: argparse.Namespace, dataset: SiteDataset, plans: dict[str, object]) -> None:
    """Run nnU-Net's preprocessing for the configurations that were asked for.

    Raises
    ------
    FednnUNetError
        If the user named a configuration that the plans do not have.
    """
    available: dict[str, object] = plans["configurations"]  # type: ignore[assignment]
    missing = [name for name in arguments.c if name not in available]
    if missing and arguments.explicit_configurations:
        raise FednnUNetError(
            f"The common plans have no configuration '{missing[0]}': choose from {', '.join(sorted(available))}."
        )
    processes = {name: count for name, count in processes_of(arguments.c, arguments.np).items() if name in available}
    preprocess_dataset(
        dataset.id,
        str(plans["plans_name"]),
        list(processes),
        list(processes.values()),
        verbose=arguments.verbose,
        show_progress_bar=not arguments.no_pbar,
    )


def processes_of(configurations: Sequence[str], counts: Sequence[int] | None) -> dict[str, int]:
    """Return the processes that preprocess each configuration, with the cascade replaced by its two stages.

    Parameters
    ----------
    configurations
        As given with ``-c``.
    counts
        As given with ``-np``: one for all, or one for each; ``None`` for nnU-Net's own.

    Raises
    ------
    FednnUNetError
        If there are neither one nor as many counts as configurations.
    """
    if counts is not None and len(counts) not in (1, len(configurations)):
        raise FednnUNetError(f"-np takes one number, or one for each of {', '.join(configurations)}.")
    processes: dict[str, int] = {}
    for index, configuration in enumerate(configurations):
        for stage in _STAGES.get(configuration, (configuration,)):
            count = preprocessing_processes(stage) if counts is None else counts[index % len(counts)]
            processes.setdefault(stage, count)
    return processes


def _write_json(content: dict[str, object], path: Path) -> None:
    """Write a file that nnU-Net reads, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    save_json(content, str(temporary), sort_keys=False)
    os.replace(temporary, path)
