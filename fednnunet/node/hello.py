"""Checks a site before it connects, and creates its introduction."""

import logging
import uuid
from importlib.metadata import version
from typing import Any

from fednnunet import __version__
from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.coverage import EXTRACTOR, PLANNERS
from fednnunet.fingerprint.plans import plans_digest
from fednnunet.nnunet_defaults import planning_class
from fednnunet.node.dataset import SiteDataset, case_files, find_dataset
from fednnunet.node.dataset_json import DatasetJson, image_reader, read_raw_dataset_json
from fednnunet.node.evaluation_input import evaluated_model, find_test_cases, read_model
from fednnunet.node.folders import check_folders
from fednnunet.node.preprocessed_cases import has_own_splits
from fednnunet.node.record import read_record
from fednnunet.node.splits import SPLITS, read_splits
from fednnunet.node.trainer_hooks import DEFAULT_TRAINER, check_hooks, find_trainer
from fednnunet.node.trainer_search import check_trainer
from fednnunet.node.training_input import check_flags, read_training
from fednnunet.protocol.messages import EvaluationOptions, FingerprintMode, Hello, PlannerOptions, TrainingOptions
from fednnunet.schema import as_name, check_name
from fednnunet.settings.node import EvaluationSettings, NodeSettings, PlanningSettings, TrainingSettings

logger = logging.getLogger(__name__)


def hello_of(settings: NodeSettings) -> tuple[SiteDataset, Hello]:
    """Check that a site can do its task, and return how it introduces itself.

    Raises
    ------
    FednnUNetError
        If something is missing or wrong at the site.
    """
    if isinstance(settings, TrainingSettings):
        return training_hello(settings)
    if isinstance(settings, EvaluationSettings):
        return evaluation_hello(settings)
    assert isinstance(settings, PlanningSettings)
    return planning_hello(settings)


def planning_hello(settings: PlanningSettings) -> tuple[SiteDataset, Hello]:
    """Check that a site can fingerprint (and plan), and return how it introduces itself.

    Raises
    ------
    FednnUNetError
        If something is missing or wrong at the site.
    """
    check_folders(settings.task)
    dataset = find_dataset(settings.dataset)
    content = read_raw_dataset_json(dataset)
    cases = case_files(dataset, content.cases, content.file_ending, len(content.channels))
    if not cases:
        raise FednnUNetError(
            f"Site {dataset.name} has no training cases: add images to {dataset.raw / 'imagesTr'}, named "
            f"CASE_0000{content.file_ending}, CASE_0001{content.file_ending} …"
        )
    content.check_number_of_cases(len(cases))
    if (dataset.raw / SPLITS).is_file():
        read_splits(dataset.raw / SPLITS, [case.case for case in cases])
    is_planned = settings.task == "plan_and_preprocess"
    asym = is_planned and settings.asym
    check_extractor(settings.extractor, asym)
    if is_planned:
        check_planner(settings.planner, settings.fingerprint, asym)
    specifics: dict[str, Any] = {
        "method": "AsymFedAvg" if asym else "FFE",
        "image_reader": image_reader(content, cases[0].images[0]),
        "fingerprint": None if asym else settings.fingerprint,
    }
    if is_planned:
        specifics["planner"] = _planner_options(settings)
    return dataset, _hello(settings, dataset, content, len(cases), **specifics)


def check_extractor(name: str, asym: bool) -> None:
    """Refuse a fingerprint extractor that nnU-Net does not have, or whose fingerprint differs from the common one.

    Raises
    ------
    FednnUNetError
        Names the class and its flag.
    """
    _check_class_exists(name, "-fpe")
    if not asym and name != EXTRACTOR:
        raise FednnUNetError(
            f"A common fingerprint equals that of {EXTRACTOR}, not of {name}: leave -fpe out, or let "
            "every site plan for itself with --asym."
        )


def check_planner(name: str, fingerprint: FingerprintMode, asym: bool) -> None:
    """Refuse a planner that nnU-Net does not have, or that needs another fingerprint than the common one.

    Raises
    ------
    FednnUNetError
        Names the class and its flag.
    """
    _check_class_exists(name, "-pl")
    if not asym and fingerprint == "exact" and name not in PLANNERS:
        raise FednnUNetError(
            f"Planner {name} may read more of the fingerprint than nnU-Net's own planners, so its "
            "plans might not be those of the pooled data: give --fingerprint shared-cases, which "
            "sends spacing and shape of each case, to all sites."
        )


def training_hello(settings: TrainingSettings) -> tuple[SiteDataset, Hello]:
    """Check that a site can train, and return how it introduces itself.

    Raises
    ------
    FednnUNetError
        If something is missing or wrong at the site.
    """
    check_flags(settings)
    check_device_name(settings.device)
    check_folders(settings.task)
    training = read_training(settings)
    check_device(settings.device)
    check_trainer(settings.trainer)
    if not settings.validation_only and settings.trainer != DEFAULT_TRAINER:
        check_hooks(find_trainer(settings.trainer))
    specifics = {
        "method": training.method,
        "fold": settings.fold,
        "folds": training.folds,
        "plans_digest": training.plans_digest,
        "plans_are_as_made": training.plans_are_as_made,
        "plans_are_own": training.plans_are_own,
        "finished": training.finished,
        "model": settings.model_name(),
        "training": TrainingOptions.of(
            trainer=settings.trainer,
            configuration=settings.configuration,
            validation_only=settings.validation_only,
        ),
    }
    return training.dataset, _hello(settings, training.dataset, training.content, training.cases, **specifics)


def evaluation_hello(settings: EvaluationSettings) -> tuple[SiteDataset, Hello]:
    """Check that a site can evaluate a model, if it has cases for that, and return how it introduces itself.

    Raises
    ------
    FednnUNetError
        If something is missing or wrong at the site.
    """
    if not 0 < settings.step_size <= 1:
        raise FednnUNetError(f"-step_size {settings.step_size} is invalid: give a number above 0, at most 1.")
    check_device_name(settings.device)
    check_folders(settings.task)
    dataset = find_dataset(settings.dataset)
    content = read_raw_dataset_json(dataset)
    cases, unlabelled = find_test_cases(settings, dataset, content)
    plans = read_model(settings, dataset, content)
    record = None if settings.model is not None else read_record(dataset, settings.plans)
    check_device(settings.device)
    if cases and settings.model is None:
        check_trainer(settings.trainer)  # nnU-Net looks for it to predict
    site = settings.site or dataset.name
    if unlabelled:
        logger.info("Site %s leaves out %d test cases without labels.", site, unlabelled)
    if not cases:
        logger.warning("Site %s has no test cases with labels: it takes no part in the evaluation.", site)
    elif len(cases) < settings.min_cases:
        logger.warning(
            ("Site %s has %d test cases with labels, fewer than --min_cases %d: it withholds all figures."),
            *(site, len(cases), settings.min_cases),
        )
    specifics = {
        "method": "FFE" if record is None else record.method,
        "fold": settings.fold,
        "folds": len(evaluated_model(settings, dataset).folds),
        "plans_digest": plans_digest(plans),
        "model": None if settings.model is not None else settings.model_name(),
        "evaluation": EvaluationOptions.of(
            configuration=settings.configuration,
            checkpoint=settings.checkpoint,
            disable_tta=settings.disable_tta,
            step_size=settings.step_size,
        ),
    }
    return dataset, _hello(settings, dataset, content, len(cases), **specifics)


def _planner_options(settings: PlanningSettings) -> PlannerOptions:
    spacing = settings.overwrite_target_spacing
    try:
        target_spacing = None if spacing is None else [float(word) for word in spacing]
    except ValueError as error:
        raise FednnUNetError(
            f"-overwrite_target_spacing takes three numbers in mm, not {' '.join(spacing or ())}."
        ) from error
    return PlannerOptions.of(
        planner=settings.planner,
        gpu_memory_target=settings.gpu_memory_target,
        preprocessor=settings.preprocessor_name,
        target_spacing=target_spacing,
        plans_name=settings.overwrite_plans_name,
    )


def _hello(settings: NodeSettings, dataset: SiteDataset, content: DatasetJson, cases: int, **specifics: Any) -> Hello:
    order, site = content.labels.regions_class_order, settings.site or as_name(dataset.name)
    check_name(site)
    return Hello.of(
        site=site,
        instance=uuid.uuid4().hex,
        task=settings.task,
        cases=cases,
        versions={"fednnunet": __version__, "nnunetv2": version("nnunetv2")},
        labels=content.labels.to_json(),
        regions_class_order=None if order is None else list(order),
        has_own_splits=has_own_splits(dataset),
        channels=content.channels,
        **specifics,
    )


def _check_class_exists(name: str, flag: str) -> None:
    if name in (EXTRACTOR, *PLANNERS):
        return  # looking for it would import torch, which takes seconds
    if planning_class(name) is None:
        raise FednnUNetError(f"nnU-Net has no class '{name}': correct {flag}.")


def check_device_name(device: str) -> None:
    """Refuse a device that nnU-Net does not know.

    Raises
    ------
    FednnUNetError
        Names the device.
    """
    if device not in {"cuda", "cpu", "mps"}:
        number = device.removeprefix("cuda:")
        which = f", and name the GPU with CUDA_VISIBLE_DEVICES={number}" if number.isdecimal() else ""
        raise FednnUNetError(f"'{device}' is not a device: give -device cuda, cpu or mps{which}.")


def check_device(device: str) -> None:
    """Refuse a device that nnU-Net does not know, or that this machine does not have.

    Raises
    ------
    FednnUNetError
        Names the device.
    """
    check_device_name(device)
    if device == "cpu":
        return  # torch takes seconds to import
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise FednnUNetError("No CUDA GPU is available: give -device cpu, or check driver and torch.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise FednnUNetError("This machine has no MPS device: give -device cpu.")
