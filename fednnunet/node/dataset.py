"""A site's dataset: where nnU-Net keeps it, and the checks that need no coordinator."""

import argparse
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nnunetv2
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from fednnunet import __version__
from fednnunet.channel.messages import Hello, PlannerOptions, Task
from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.plans import plans_digest
from fednnunet.folds import Fold, parse_folds

_FOLDS_OF_NNUNET = 5


@dataclass(frozen=True)
class SiteDataset:
    """A dataset of nnU-Net, by name, with the folders that nnU-Net keeps for it."""

    name: str

    @property
    def id(self) -> int:
        """The number in the dataset's name."""
        return int(self.name[len("Dataset") :].split("_")[0])

    @property
    def raw(self) -> Path:
        """Folder with images, labels and ``dataset.json``."""
        return nnunet_folder("nnUNet_raw") / self.name

    @property
    def preprocessed(self) -> Path:
        """Folder with fingerprint, plans and preprocessed cases."""
        return nnunet_folder("nnUNet_preprocessed") / self.name


def nnunet_folder(variable: str) -> Path:
    """Return the folder that one of nnU-Net's environment variables names.

    Raises
    ------
    FednnUNetError
        If the variable is not set.
    """
    value = os.environ.get(variable)
    if not value:
        raise FednnUNetError(f"{variable} is not set: export {variable}=FOLDER, as nnU-Net's documentation describes.")
    return Path(value)


def find_dataset(id_or_name: str) -> SiteDataset:
    """Return the dataset that a user named by id (``511``) or by name (``Dataset511_HippoPlainA``).

    Raises
    ------
    FednnUNetError
        If there is none, or more than one with that id.
    """
    if id_or_name.startswith("Dataset"):
        return SiteDataset(id_or_name)
    if not id_or_name.isdecimal():
        raise FednnUNetError(f"'{id_or_name}' is no dataset: give its id, such as 511, or its name, Dataset511_NAME.")
    names = [str(name) for name in find_candidate_datasets(int(id_or_name))]
    if len(names) > 1:
        raise FednnUNetError(f"Dataset id {id_or_name} is ambiguous ({', '.join(names)}): rename all but one.")
    if not names:
        folders = " or ".join(
            f"{name}={os.environ[name]}" for name in ("nnUNet_raw", "nnUNet_preprocessed") if name in os.environ
        )
        raise FednnUNetError(
            f"There is no dataset with id {id_or_name} in {folders}: check the id and nnU-Net's environment variables."
        )
    return SiteDataset(names[0])


def planning_hello(arguments: argparse.Namespace) -> tuple[SiteDataset, Hello]:
    """Check that a site can fingerprint (and plan), and return how it introduces itself.

    Raises
    ------
    FednnUNetError
        If something is missing or wrong at the site.
    """
    nnunet_folder("nnUNet_raw")
    nnunet_folder("nnUNet_preprocessed")
    dataset = find_dataset(arguments.dataset)
    content = _dataset_json(dataset.raw / "dataset.json", "put the dataset there in nnU-Net's raw format")
    cases = get_filenames_of_train_images_and_targets(str(dataset.raw), content)
    if not cases:
        raise FednnUNetError(f"Site {dataset.name} has no training cases: put images into {dataset.raw / 'imagesTr'}.")
    if content.get("numTraining") != len(cases):
        raise FednnUNetError(
            f"Site {dataset.name} has {len(cases)} training cases, but its dataset.json says "
            f"numTraining = {content.get('numTraining')}: correct dataset.json."
        )
    _check_class_exists(arguments.fpe, "-fpe")
    example = next(iter(cases.values()))["images"][0]
    specifics: dict[str, Any] = {
        "image_reader": determine_reader_writer_from_dataset_json(content, example, verbose=False).__name__,
        "options": {"-fpe": arguments.fpe},
    }
    if arguments.task == "plan_and_preprocess":
        _check_class_exists(arguments.pl, "-pl")
        specifics["planner"] = _planner_options(arguments)
    return dataset, _hello(arguments.task, dataset, content, len(cases), **specifics)


def training_hello(arguments: argparse.Namespace) -> tuple[SiteDataset, Hello]:
    """Check that a site can train, and return how it introduces itself.

    Raises
    ------
    FednnUNetError
        If something is missing or wrong at the site.
    """
    if arguments.num_gpus != 1:
        raise FednnUNetError("-num_gpus above 1 is not supported yet: leave the flag out, each site trains on one GPU.")
    if arguments.c and (arguments.val or arguments.pretrained_weights):
        raise FednnUNetError("--c goes with neither --val nor -pretrained_weights: leave one of them out.")
    if arguments.val_best and arguments.disable_checkpointing:
        raise FednnUNetError("--val_best needs the checkpoints that --disable_checkpointing leaves out: drop one.")
    if arguments.pretrained_weights and not Path(arguments.pretrained_weights).is_file():
        raise FednnUNetError(f"There is no file {arguments.pretrained_weights}: correct -pretrained_weights.")
    _check_device(arguments.device)
    folds = parse_folds(arguments.fold)
    nnunet_folder("nnUNet_preprocessed")
    nnunet_folder("nnUNet_results")
    dataset = find_dataset(arguments.dataset)
    plans_file = dataset.preprocessed / f"{arguments.p}.json"
    remedy = "run plan_and_preprocess first"
    if not plans_file.is_file():
        raise FednnUNetError(f"Site {dataset.name} has no plans file {plans_file}: {remedy}, or correct -p.")
    plans = load_json(str(plans_file))
    content = _dataset_json(dataset.preprocessed / "dataset.json", remedy)
    configuration = _configuration(plans, arguments.configuration, dataset)
    data_folder = dataset.preprocessed / configuration["data_identifier"]
    cases = sorted({path.name.split(".")[0] for path in data_folder.glob("*.pkl")}) if data_folder.is_dir() else []
    if not cases:
        raise FednnUNetError(
            f"Site {dataset.name} has no preprocessed data for {arguments.configuration} in {data_folder}: {remedy}."
        )
    _check_folds(dataset, folds, len(cases))
    _check_previous_stage(dataset, arguments, configuration)
    _check_trainer(arguments.tr)
    options = {
        "-tr": arguments.tr,
        "-p": arguments.p,
        "configuration": arguments.configuration,
        "--c": arguments.c,
        "--val": arguments.val,
    }
    specifics = {"fold": arguments.fold, "plans_digest": plans_digest(plans), "options": options}
    return dataset, _hello("train", dataset, content, len(cases), **specifics)


def _planner_options(arguments: argparse.Namespace) -> PlannerOptions:
    spacing = arguments.overwrite_target_spacing
    try:
        target_spacing = None if spacing is None else [float(word) for word in spacing]
    except ValueError as error:
        raise FednnUNetError(
            f"-overwrite_target_spacing takes three numbers in mm, not {' '.join(spacing)}."
        ) from error
    return PlannerOptions(
        planner=arguments.pl,
        gpu_memory_target=arguments.gpu_memory_target,
        preprocessor=arguments.preprocessor_name,
        target_spacing=target_spacing,
        plans_name=arguments.overwrite_plans_name,
    )


def _hello(task: Task, dataset: SiteDataset, content: dict[str, Any], cases: int, **specifics: Any) -> Hello:
    if "labels" not in content or not (content.get("channel_names") or content.get("modality")):
        raise FednnUNetError(f"The dataset.json of site {dataset.name} lacks labels or channel_names: complete it.")
    return Hello(
        site=dataset.name,
        task=task,
        cases=cases,
        versions={"fednnunet": __version__, "nnunetv2": version("nnunetv2")},
        labels=content["labels"],
        regions_class_order=content.get("regions_class_order"),
        channels=content.get("channel_names") or content["modality"],
        **specifics,
    )


def _dataset_json(path: Path, remedy: str) -> dict[str, Any]:
    if not path.is_file():
        raise FednnUNetError(f"There is no {path}: {remedy}.")
    try:
        content = load_json(str(path))
    except ValueError as error:
        raise FednnUNetError(f"{path} is not valid JSON ({error}): correct it.") from error
    if not isinstance(content, dict):
        raise FednnUNetError(f"{path} is not a JSON object: write it as nnU-Net's documentation describes.")
    return content


def _check_class_exists(name: str, flag: str) -> None:
    folder = Path(nnunetv2.__path__[0]) / "experiment_planning"
    if recursive_find_python_class(str(folder), name, "nnunetv2.experiment_planning") is None:
        raise FednnUNetError(f"nnU-Net has no class '{name}': correct {flag}.")


def _check_trainer(name: str) -> None:
    try:
        recursive_find_trainer_class_by_name(name)
    except Exception as error:  # looking for a trainer, nnU-Net imports modules that may fail in any way
        reason = str(error).partition("\n")[0][:200]
        raise FednnUNetError(
            f"nnU-Net finds no trainer '{name}' ({type(error).__name__}: {reason}): "
            "correct -tr, or set nnUNet_extTrainer."
        ) from error


def _check_device(device: str) -> None:
    import torch

    if device not in {"cuda", "cpu", "mps"}:
        raise FednnUNetError(f"'{device}' is no device: give -device cuda, cpu or mps.")
    if device == "cuda" and not torch.cuda.is_available():
        raise FednnUNetError("No CUDA GPU can be used here: train with -device cpu, or check driver and torch.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise FednnUNetError("This machine has no MPS device: train with -device cpu.")


def _configuration(plans: dict[str, Any], name: str, dataset: SiteDataset) -> dict[str, Any]:
    """Return a configuration of the plans, with what it inherits."""
    configurations = plans["configurations"]
    if name not in configurations:
        raise FednnUNetError(
            f"The plans of site {dataset.name} have no configuration '{name}': "
            f"choose one of {', '.join(sorted(configurations))}."
        )
    own: dict[str, Any] = configurations[name]
    parent = own.get("inherits_from")
    return {**_configuration(plans, parent, dataset), **own} if parent else own


def _check_folds(dataset: SiteDataset, folds: tuple[Fold, ...], cases: int) -> None:
    has_own_splits = (dataset.preprocessed / "splits_final.json").is_file()
    if folds != ("all",) and cases < _FOLDS_OF_NNUNET and not has_own_splits:
        raise FednnUNetError(
            f"Site {dataset.name} has {cases} cases, too few for nnU-Net's five folds: "
            f"train with FOLD fold_all, or write {dataset.preprocessed / 'splits_final.json'}."
        )


def _check_previous_stage(dataset: SiteDataset, arguments: argparse.Namespace, configuration: dict[str, Any]) -> None:
    previous = configuration.get("previous_stage")
    if previous is None:
        return
    results = nnunet_folder("nnUNet_results") / dataset.name / f"{arguments.tr}__{arguments.p}__{previous}"
    if not (results / "predicted_next_stage" / arguments.configuration).is_dir():
        raise FednnUNetError(
            f"Site {dataset.name} has no predictions of {previous} for {arguments.configuration}: "
            f"train {previous} first, with FOLD all."
        )
