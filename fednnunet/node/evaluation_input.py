"""Selects and checks the model, cases and output folder of an evaluation."""

import os
from pathlib import Path
from typing import Any

from fednnunet.errors import FednnUNetError
from fednnunet.evaluation.prediction import TrainedModel, evaluation_name
from fednnunet.files import read_json
from fednnunet.fingerprint.plans import resolved
from fednnunet.fingerprint.plans_file import read_plans_file
from fednnunet.folds import MOST_FOLDS, Fold, parse_folds
from fednnunet.node.dataset import CaseFiles, SiteDataset, check_channels, labelled_cases, nnunet_folder
from fednnunet.node.dataset_json import DATASET_JSON, DatasetJson, read_dataset_json
from fednnunet.node.splits import SPLITS
from fednnunet.settings.node import EvaluationSettings


def evaluated_model(settings: EvaluationSettings, dataset: SiteDataset) -> TrainedModel:
    """Return the model that ``-m`` names, or the site's own.

    Parameters
    ----------
    settings
        The node's settings.
    dataset
        The site's dataset.
    """
    folder = settings.model
    if folder is None:
        folder = nnunet_folder("nnUNet_results") / dataset.name / settings.model_name()
    folder = folder.absolute()
    return TrainedModel(folder, _folds(settings, dataset, folder), settings.checkpoint)


def _folds(settings: EvaluationSettings, dataset: SiteDataset, folder: Path) -> tuple[Fold, ...]:
    """Return the folds that FOLD asks for; `all` are those of the site's split or, for ``-m``, those of the model."""
    if settings.fold != "all":
        return parse_folds(settings.fold, MOST_FOLDS)
    splits = dataset.preprocessed / SPLITS if os.environ.get("nnUNet_preprocessed") else None
    if settings.model is None and splits is not None and splits.is_file():
        kept = read_json(splits, "restore it")
        if isinstance(kept, list) and kept:
            return parse_folds("all", len(kept))
    numbers = [path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{settings.checkpoint}")]
    there = sorted(int(number) for number in numbers if number.isdecimal())
    return tuple(there) or parse_folds("all")


def results_folder(settings: EvaluationSettings, dataset: SiteDataset) -> Path:
    """Return the folder for the predictions and the table of a dataset's test cases."""
    folder = settings.output or evaluated_model(settings, dataset).folder / evaluation_name(
        settings.fold, settings.checkpoint
    )
    return folder.absolute() / dataset.name


def read_model(settings: EvaluationSettings, dataset: SiteDataset, content: DatasetJson) -> dict[str, Any]:
    """Check that the model fits the site's images, and return its plans.

    Parameters
    ----------
    settings
        The node's settings.
    dataset, content
        The site's dataset, and its ``dataset.json``.

    Raises
    ------
    FednnUNetError
        If a file is missing, or the model is one for other images or labels, or another configuration.
    """
    site, model = settings.site or dataset.name, evaluated_model(settings, dataset)
    remedy = "train first, or give the folder TRAINER__PLANS__CONFIGURATION of a trained model with -m"
    missing = [path for path in (model.folder / "plans.json", *model.checkpoints) if not path.is_file()]
    if missing:
        raise FednnUNetError(f"Site {site} has no {missing[0]}: {remedy}, or correct FOLD or --checkpoint.")
    facts, expected = content.facts, read_dataset_json(model.folder / DATASET_JSON, remedy).facts
    different = [name for name in expected if facts[name] != expected[name]]
    if different:
        raise FednnUNetError(
            f"Site {site} has {different[0]} {facts[different[0]]} in its dataset.json, the model in {model.folder} "
            f"was trained for {expected[different[0]]}: make the dataset like that, or evaluate another model."
        )
    named = model.folder.name.split("__")
    if len(named) == 3 and named[2] != settings.configuration:
        raise FednnUNetError(
            f"Site {site} is to evaluate {settings.configuration}, but {model.folder} is a model of {named[2]}: "
            "correct CONFIGURATION or -m."
        )
    plans = read_plans_file(model.folder / "plans.json", remedy)
    configuration = resolved(plans, settings.configuration)
    if configuration.get("previous_stage") is not None:
        raise FednnUNetError(
            f"{settings.configuration} refines what {configuration['previous_stage']} predicts, which evaluate does "
            "not do yet: evaluate another configuration, or predict with nnUNetv2_predict."
        )
    return plans


def find_test_cases(
    settings: EvaluationSettings, dataset: SiteDataset, content: DatasetJson
) -> tuple[list[CaseFiles], int]:
    """Return the test cases that have labels, and how many have none.

    Parameters
    ----------
    settings
        The node's settings, which can name other folders than ``imagesTs`` and ``labelsTs``.
    dataset, content
        The site's dataset, and its ``dataset.json``.

    Raises
    ------
    CaseError
        If a case lacks the file of a channel.
    FednnUNetError
        If ``-i`` or ``-l`` names no folder.
    """
    for flag, folder in (("-i", settings.images), ("-l", settings.labels)):
        if folder is not None and not folder.is_dir():
            raise FednnUNetError(f"Folder {folder} does not exist: correct {flag}.")
    images, labels = settings.images or dataset.raw / "imagesTs", settings.labels or dataset.raw / "labelsTs"
    cases, unlabelled = labelled_cases(images.absolute(), labels.absolute(), content.file_ending)
    check_channels(cases, len(content.channels))
    return cases, unlabelled
