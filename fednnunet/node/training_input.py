"""Checks plans, preprocessed cases and flags of a training."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.plans import data_digest, plans_digest, resolved
from fednnunet.fingerprint.plans_file import read_plans_file
from fednnunet.folds import FOLDS_OF_NNUNET, Fold, parse_folds
from fednnunet.nnunet_defaults import FINAL_CHECKPOINT
from fednnunet.node.dataset import SiteDataset, find_dataset, nnunet_folder
from fednnunet.node.dataset_json import DATASET_JSON, DatasetJson, read_dataset_json
from fednnunet.node.preprocessed_cases import cases_of_folds, check_cases, check_previous_stage, find_preprocessed
from fednnunet.node.record import preprocessed_with, read_record
from fednnunet.node.trainer_hooks import reads_splits
from fednnunet.protocol.messages import FederationRecord, Method
from fednnunet.settings.node import TrainingSettings


class TrainingInput(NamedTuple):
    """Inputs of a site's training.

    Attributes
    ----------
    dataset, content
        The site's dataset, and the ``dataset.json`` beside the preprocessed cases.
    cases
        Number of preprocessed cases.
    folds
        How many folds the site's split has; ``None`` where every case trains.
    method
        How the plans came about.
    plans_digest
        Digest of the plans.
    plans_are_as_made
        Whether they are those that the federation made.
    plans_are_own
        Whether no federation has made them.
    finished
        Folds with a finished training that is not to be replaced.
    """

    dataset: SiteDataset
    content: DatasetJson
    cases: int
    folds: int | None
    method: Method
    plans_digest: str
    plans_are_as_made: bool
    plans_are_own: bool
    finished: list[str]


def check_flags(settings: TrainingSettings) -> None:
    """Refuse flags of a node that do not go together.

    Raises
    ------
    FednnUNetError
        Names them.
    """
    if settings.num_gpus != 1:
        raise FednnUNetError(
            f"-num_gpus {settings.num_gpus} is not supported yet, each site trains on one GPU: leave the flag out."
        )
    if settings.resume and (settings.validation_only or settings.pretrained_weights):
        raise FednnUNetError("--c goes with neither --val nor -pretrained_weights: leave one of them out.")
    if settings.val_best and settings.disable_checkpointing:
        raise FednnUNetError("--val_best needs the checkpoints that --disable_checkpointing leaves out: drop one.")
    if settings.seed is not None and get_allowed_n_proc_DA() > 0:  # nnU-Net seeds none of these processes
        raise FednnUNetError(
            "--seed repeats only what is drawn in the training process: set nnUNet_n_proc_DA=0, so that nnU-Net "
            "augments there, or leave --seed out."
        )
    if settings.pretrained_weights and not Path(settings.pretrained_weights).is_file():
        raise FednnUNetError(f"File {settings.pretrained_weights} does not exist: correct -pretrained_weights.")


def read_training(settings: TrainingSettings) -> TrainingInput:
    """Check the inputs of a training, and return them.

    Raises
    ------
    FednnUNetError
        If something is missing or wrong at the site.
    """
    dataset = find_dataset(settings.dataset)
    plans = _read_plans(dataset, settings.plans)
    content = read_dataset_json(dataset.preprocessed / DATASET_JSON, f"copy {dataset.raw / DATASET_JSON} there")
    configuration = resolved(plans, settings.configuration)
    cases = _check_data(dataset, plans, settings.plans, settings.configuration)
    data = dataset.preprocessed / str(configuration["data_identifier"])
    folds = check_cases(
        dataset,
        data,
        settings.fold,
        content.file_ending,
        _preprocess(dataset, settings.plans, settings.configuration),
        reads_splits=reads_splits(settings.trainer),
    )
    _check_fingerprint(dataset)
    _check_previous_stage(dataset, settings, configuration)
    digest, record = plans_digest(plans), read_record(dataset, settings.plans)
    return TrainingInput(
        dataset,
        content,
        cases,
        folds,
        method="FFE" if record is None else record.method,
        plans_digest=digest,
        plans_are_as_made=record is None or digest == record.plans_digest,
        plans_are_own=record is None,
        finished=_finished(dataset, settings, parse_folds(settings.fold, folds or FOLDS_OF_NNUNET)),
    )


def _read_plans(dataset: SiteDataset, name: str) -> dict[str, Any]:
    """Return the plans of this name, which must be this dataset's: nnU-Net uses the names in them."""
    path = dataset.preprocessed / f"{name}.json"
    if not path.is_file():
        raise FednnUNetError(
            f"Site {dataset.name} has no plans file {path}: run plan_and_preprocess first, or correct -p."
        )
    plans = read_plans_file(path, "restore it, or run plan_and_preprocess first")
    for key, value in (("plans_name", name), ("dataset_name", dataset.name)):
        if plans.get(key) != value:
            raise FednnUNetError(
                f"{path} says {key} {plans.get(key)}, where nnU-Net would read and write: make it {value}."
            )
    return plans


def _check_data(dataset: SiteDataset, plans: dict[str, Any], plans_name: str, configuration: str) -> int:
    """Refuse data that are missing, or preprocessed with other plans; return the number of cases.

    What nnU-Net's own command has preprocessed since the plans are what they are, is taken.
    """
    identifier = str(resolved(plans, configuration)["data_identifier"])
    folder = dataset.preprocessed / identifier
    remedy = _preprocess(dataset, plans_name, configuration)
    cases = find_preprocessed(folder)
    if not cases:
        raise FednnUNetError(
            f"Site {dataset.name} has no preprocessed data for {configuration} in {folder}: {remedy}, or prepare all "
            "sites with plan_and_preprocess."
        )
    record, known = read_record(dataset, plans_name), preprocessed_with(dataset, identifier)
    preprocessed_at = min((folder / f"{case}.pkl").stat().st_mtime for case in cases)
    if known is not None:
        path = dataset.preprocessed / f"{plans_name}.json"
        if known != data_digest(plans, configuration) and preprocessed_at < path.stat().st_mtime:
            raise FednnUNetError(
                f"Site {dataset.name} has preprocessed {folder} with other plans than {plans_name} as they are now "
                f"(spacing, normalization or the like differ): {remedy}."
            )
    elif record is not None and not _is_preprocessed(record, plans, identifier, preprocessed_at):
        raise FednnUNetError(
            f"Site {dataset.name} has not preprocessed {configuration} since its plans were made: {remedy}."
        )
    return len(cases)


def _preprocess(dataset: SiteDataset, plans_name: str, configuration: str) -> str:
    """Return the remedy for missing data, which destroys nothing."""
    return (
        f"preprocess with nnUNetv2_preprocess -d {dataset.id} -plans_name {plans_name} -c {configuration}, which "
        "leaves the plans as they are"
    )


def _is_preprocessed(record: FederationRecord, plans: dict[str, Any], identifier: str, preprocessed_at: float) -> bool:
    """Return whether preprocessed data without a recorded digest are those of the plans."""
    if record.made is not None:
        return preprocessed_at >= record.made
    # written before there was a time in it
    names = record.preprocessed or []
    known = {resolved(plans, name)["data_identifier"] for name in names if name in plans["configurations"]}
    return record.preprocessed is None or identifier in known


def _check_fingerprint(dataset: SiteDataset) -> None:
    path = dataset.preprocessed / "dataset_fingerprint.json"
    if not path.is_file():
        raise FednnUNetError(
            f"Site {dataset.name} has no {path}, which nnU-Net copies beside the model: run "
            f"nnUNetv2_extract_fingerprint -d {dataset.id}."
        )


def _finished(dataset: SiteDataset, settings: TrainingSettings, folds: tuple[Fold, ...]) -> list[str]:
    """Return the folds that are trained, whoever did it, and shall stay as they are: nnU-Net would write over them."""
    if settings.validation_only or settings.overwrite:
        return []
    model = nnunet_folder("nnUNet_results") / dataset.name / settings.model_name()
    return [str(fold) for fold in folds if (model / f"fold_{fold}" / FINAL_CHECKPOINT).is_file()]


def _check_previous_stage(dataset: SiteDataset, settings: TrainingSettings, configuration: dict[str, Any]) -> None:
    previous = configuration.get("previous_stage")
    if previous is None:
        return
    results = nnunet_folder("nnUNet_results") / dataset.name / replace(settings, configuration=previous).model_name()
    check_previous_stage(
        results / "predicted_next_stage" / settings.configuration,
        cases_of_folds(
            dataset,
            dataset.preprocessed / configuration["data_identifier"],
            settings.fold,
            reads_splits=reads_splits(settings.trainer),
        ),
        f"train {previous} with FOLD all, whose validation predicts every case",
    )
