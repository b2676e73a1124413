"""What a node trains: with which plans, on which preprocessed cases, and whether all is there that it takes."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from fednnunet.channel.messages import Method
from fednnunet.errors import FednnUNetError
from fednnunet.files import read_json_object
from fednnunet.fingerprint.plans import plans_digest
from fednnunet.nnunet_defaults import stages_of
from fednnunet.node.dataset import SiteDataset, find_dataset, nnunet_folder
from fednnunet.node.dataset_json import DATASET_JSON, DatasetJson, read_dataset_json
from fednnunet.node.preprocessed_cases import cases_of_folds, check_cases, check_previous_stage, find_preprocessed
from fednnunet.node.record import RECORD, read_record


class TrainingInput(NamedTuple):
    """What a site trains with.

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
    """

    dataset: SiteDataset
    content: DatasetJson
    cases: int
    folds: int | None
    method: Method
    plans_digest: str
    plans_are_as_made: bool


def check_flags(arguments: argparse.Namespace) -> None:
    """Refuse flags of a node that do not go together.

    Raises
    ------
    FednnUNetError
        Names them.
    """
    if arguments.num_gpus != 1:
        raise FednnUNetError(
            f"-num_gpus {arguments.num_gpus} is not supported yet, each site trains on one GPU: leave the flag out."
        )
    if arguments.c and (arguments.val or arguments.pretrained_weights):
        raise FednnUNetError("--c goes with neither --val nor -pretrained_weights: leave one of them out.")
    if arguments.val_best and arguments.disable_checkpointing:
        raise FednnUNetError("--val_best needs the checkpoints that --disable_checkpointing leaves out: drop one.")
    if arguments.pretrained_weights and not Path(arguments.pretrained_weights).is_file():
        raise FednnUNetError(f"There is no file {arguments.pretrained_weights}: correct -pretrained_weights.")


def read_training(arguments: argparse.Namespace) -> TrainingInput:
    """Check that all is there that a training takes, and return what it is.

    Raises
    ------
    FednnUNetError
        If something is missing or wrong at the site.
    """
    dataset = find_dataset(arguments.dataset)
    plans_file = dataset.preprocessed / f"{arguments.p}.json"
    remedy = "run plan_and_preprocess first"
    if not plans_file.is_file():
        raise FednnUNetError(f"Site {dataset.name} has no plans file {plans_file}: {remedy}, or correct -p.")
    plans = read_json_object(plans_file, remedy)
    content = read_dataset_json(dataset.preprocessed / DATASET_JSON, remedy)
    configuration = _configuration(plans, arguments.configuration, dataset)
    data_folder = dataset.preprocessed / configuration["data_identifier"]
    cases = find_preprocessed(data_folder)
    if not cases:
        raise FednnUNetError(
            f"Site {dataset.name} has no preprocessed data for {arguments.configuration} in {data_folder}: {remedy}."
        )
    record = read_record(dataset, arguments.p)
    if record is None:
        raise FednnUNetError(
            f"The plans {arguments.p} of site {dataset.name} are not those of a federation ({RECORD} does not know "
            "them): run plan_and_preprocess together with the other sites."
        )
    stages = set(stages_of(arguments.configuration))
    if record.preprocessed is not None and not stages <= set(record.preprocessed):
        raise FednnUNetError(
            f"Site {dataset.name} has not preprocessed {arguments.configuration} since its plans were made: "
            f"run plan_and_preprocess with -c {arguments.configuration}."
        )
    again = f"preprocess {arguments.configuration} again"
    folds = check_cases(dataset, data_folder, arguments.fold, content.file_ending, again)
    _check_previous_stage(dataset, arguments, configuration)
    digest = plans_digest(plans)
    return TrainingInput(dataset, content, len(cases), folds, record.method, digest, digest == record.plans_digest)


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


def _check_previous_stage(dataset: SiteDataset, arguments: argparse.Namespace, configuration: dict[str, Any]) -> None:
    previous = configuration.get("previous_stage")
    if previous is None:
        return
    results = nnunet_folder("nnUNet_results") / dataset.name / f"{arguments.tr}__{arguments.p}__{previous}"
    check_previous_stage(
        results / "predicted_next_stage" / arguments.configuration,
        cases_of_folds(dataset, dataset.preprocessed / configuration["data_identifier"], arguments.fold),
        f"train {previous} with FOLD all, whose validation predicts every case",
    )
