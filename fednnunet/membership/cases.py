"""Finds the models of a site, and the cases that each was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from fednnunet.errors import CaseError, FednnUNetError
from fednnunet.evaluation.gain import ModelName
from fednnunet.evaluation.prediction import Predictor, TrainedModel
from fednnunet.fingerprint.plans import resolved
from fednnunet.fingerprint.plans_file import read_plans_file
from fednnunet.folds import MOST_FOLDS, Fold, parse_folds
from fednnunet.labels import Labels
from fednnunet.membership.settings import PrivacyAuditSettings
from fednnunet.node.dataset import CaseFiles, SiteDataset, check_channels, find_dataset, labelled_cases, nnunet_folder
from fednnunet.node.dataset_json import DATASET_JSON, DatasetJson, read_dataset_json, read_raw_dataset_json
from fednnunet.node.kept_states import KeptStates
from fednnunet.node.preprocessed_cases import find_preprocessed
from fednnunet.node.splits import SPLITS, read_splits
from fednnunet.protocol.messages import OwnModel

_TRAIN_FIRST = "train first, or correct CONFIGURATION, FOLD, -tr, -p or -chk"
_PREPROCESS = "run plan_and_preprocess again"


@dataclass(frozen=True)
class Membership:
    """The cases that a model of one fold was trained on, and those held out.

    Attributes
    ----------
    trained, held_out
        Identifiers of preprocessed cases, sorted.
    tests
        Identifiers of test cases, which are held out, too.
    """

    trained: tuple[str, ...]
    held_out: tuple[str, ...]
    tests: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """Number of all of them."""
        return len(self.trained) + len(self.held_out) + len(self.tests)


@dataclass(frozen=True)
class AuditedSite:
    """A site's models, and its cases.

    Attributes
    ----------
    dataset, content
        The site's dataset, and the ``dataset.json`` of the federated model.
    data
        Folder with the preprocessed cases.
    models
        The federated model, and the site's own as far as there are any, each with the folds of the audit.
    tests
        Labelled test cases, if they count as held out.
    """

    dataset: SiteDataset
    content: DatasetJson
    data: Path
    models: dict[ModelName, TrainedModel]
    tests: dict[str, CaseFiles]

    @property
    def labels(self) -> Labels:
        """The labels of the models."""
        return self.content.labels

    def members(self, model: TrainedModel, fold: Fold) -> Membership:
        """Return which cases a fold of a model was trained on.

        The record of the federation takes precedence over the split, which may have changed since.

        Raises
        ------
        FednnUNetError
            If there is neither such a record nor a split, or no case of a group.
        """
        cases = find_preprocessed(self.data)
        if not cases:
            raise FednnUNetError(f"There are no preprocessed cases in {self.data}: {_PREPROCESS}.")
        recorded = KeptStates(model.folder / f"fold_{fold}").trained_cases()
        trained, held_out = self._of_split(fold, cases, recorded)
        if recorded is not None:
            trained, held_out = recorded.intersection(cases), held_out - recorded
        for group, what in ((trained, "was trained on in"), ({*held_out, *self.tests}, "is held out from")):
            if not group:
                raise FednnUNetError(
                    f"No case of {self.dataset.name} {what} fold {fold} of {model.folder}: restore the preprocessed "
                    "cases and the split, or correct FOLD."
                )
        return Membership(tuple(sorted(trained)), tuple(sorted(held_out)), tuple(self.tests))

    def _of_split(self, fold: Fold, cases: Sequence[str], recorded: set[str] | None) -> tuple[set[str], set[str]]:
        if fold == "all":
            return set(cases), set()
        path = self.dataset.preprocessed / SPLITS
        if recorded is not None and not path.is_file():
            return set(), set(cases)
        splits = read_splits(path, cases)
        parse_folds(str(fold), len(splits))
        return set(splits[fold]["train"]), set(splits[fold]["val"])

    def load(self, predictor: Predictor, case: str, *, is_test: bool) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the preprocessed image and labels of a case, shapes ``(channels, z, y, x)`` and ``(z, y, x)``.

        Raises
        ------
        CaseError
            If it cannot be read.
        """
        try:
            image, truth = predictor.preprocess(*_files(self.tests[case])) if is_test else self._preprocessed(case)
        except Exception as error:  # readers raise whatever they like
            remedy = "restore its files in imagesTs and labelsTs" if is_test else _PREPROCESS
            raise CaseError(case, f"cannot be read ({type(error).__name__})", remedy) from error
        return np.asarray(image, np.float32), truth[0]

    def _preprocessed(self, case: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

        data, truth, *_ = infer_dataset_class(str(self.data))(str(self.data), [case]).load_case(case)
        return data[:], truth[:]


def audited_site(settings: PrivacyAuditSettings) -> AuditedSite:
    """Return the models that the settings name, and the site's cases.

    Raises
    ------
    FednnUNetError
        If there is no such dataset, model, or data, or it is not enough for an audit.
    """
    dataset = find_dataset(settings.dataset)
    results = nnunet_folder("nnUNet_results") / dataset.name
    federated = results.absolute() / settings.model_name()
    folds = _folds(settings, federated)
    models: dict[ModelName, TrainedModel] = {}
    for name in get_args(ModelName):
        own = name if name in get_args(OwnModel) else None
        model = TrainedModel(federated.with_name(settings.model_name(own)), folds, settings.checkpoint)
        if name == "federated" or all(path.is_file() for path in model.checkpoints):
            models[name] = model
    for path in (federated / "plans.json", *models["federated"].checkpoints):
        if not path.is_file():
            raise FednnUNetError(f"Site {dataset.name} has no {path}: {_TRAIN_FIRST}.")
    content = read_dataset_json(federated / DATASET_JSON, _TRAIN_FIRST)
    configuration = resolved(read_plans_file(federated / "plans.json", _TRAIN_FIRST), settings.configuration)
    if configuration.get("previous_stage") is not None:
        raise FednnUNetError(
            f"{settings.configuration} refines what {configuration['previous_stage']} predicts, which this audit does "
            f"not do: audit {configuration['previous_stage']}."
        )
    data = dataset.preprocessed / str(configuration["data_identifier"])
    return AuditedSite(dataset, content, data, models, _test_cases(settings, dataset))


def _folds(settings: PrivacyAuditSettings, folder: Path) -> tuple[Fold, ...]:
    if settings.fold != "all":
        return parse_folds(settings.fold, MOST_FOLDS)
    numbers = [path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{settings.checkpoint}")]
    folds = sorted(int(number) for number in numbers if number.isdecimal())
    if len(folds) < 2:
        there = f"only fold {folds[0]} of" if folds else "no fold of"
        raise FednnUNetError(
            f"FOLD all compares the models of several folds, but {there} {folder} has a {settings.checkpoint}: "
            f"{f'give FOLD {folds[0]}' if folds else _TRAIN_FIRST}."
        )
    return tuple(folds)


def _test_cases(settings: PrivacyAuditSettings, dataset: SiteDataset) -> dict[str, CaseFiles]:
    if not settings.test_cases and settings.fold != "fold_all":
        return {}
    if settings.fold == "all":
        raise FednnUNetError(
            "FOLD all compares models by cases that some of them have trained: leave out --test_cases."
        )
    content = read_raw_dataset_json(dataset)
    cases, _ = labelled_cases(dataset.raw / "imagesTs", dataset.raw / "labelsTs", content.file_ending)
    if not cases:
        why = "leave out --test_cases" if settings.test_cases else "audit a numbered fold, as all others train here"
        raise FednnUNetError(
            f"{dataset.name} has no labelled test cases that could be held out: put some into imagesTs and labelsTs of "
            f"{dataset.raw}, or {why}."
        )
    check_channels(cases, len(content.channels))
    return {case.case: case for case in cases}


def _files(case: CaseFiles) -> tuple[tuple[str, ...], str]:
    return case.images, case.segmentation
