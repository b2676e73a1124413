"""Runs nnU-Net's planner on a fingerprint, without images."""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from batchgenerators.utilities.file_and_folder_operations import load_json, save_json
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.fingerprint import Fingerprint
from fednnunet.nnunet_defaults import planner_environment, planning_class
from fednnunet.protocol.messages import Hello, PlannerOptions

_NAME = "Dataset001_Federation"
_DEFAULT_OPTIONS = PlannerOptions(planner="ExperimentPlanner")


class FederationPlanner:
    """nnU-Net's planner class, unmodified, on a dataset that has a ``dataset.json`` and a fingerprint, but no image.

    ``numTraining`` is the federation's number of cases, as the planner's cap on the batch size wants it.

    Parameters
    ----------
    facts
        How one of the sites introduced itself; the sites agree in all that is used here.
    cases
        Number of cases in the federation.

    Raises
    ------
    FednnUNetError
        If there is no such planner here.
    """

    def __init__(self, facts: Hello, cases: int) -> None:
        self._facts = facts
        self._cases = cases
        self._options = facts.planner or _DEFAULT_OPTIONS
        planner = planning_class(self._options.planner)
        if planner is None:
            raise FednnUNetError(
                f"The coordinator has no planner '{self._options.planner}': install it as at the sites, or correct -pl."
            )
        self._planner = planner

    def target_spacing(self, fingerprint: Fingerprint) -> np.ndarray:
        """Return the spacing of ``3d_fullres`` that the planner chooses; shape ``(3,)``, float64, mm."""
        with self._prepared(fingerprint) as planner:
            target: np.ndarray = np.asarray(planner.determine_fullres_target_spacing(), np.float64)
        return target

    def plans(self, fingerprint: Fingerprint) -> dict[str, Any]:
        """Return the plans that the planner makes of a fingerprint.

        Raises
        ------
        FednnUNetError
            If it cannot plan for this fingerprint.
        """
        with self._prepared(fingerprint) as planner:
            planner.plan_experiment()
            file = Path(os.environ["nnUNet_preprocessed"]) / _NAME / f"{planner.plans_identifier}.json"
            plans: dict[str, Any] = load_json(str(file))
        return plans

    @contextlib.contextmanager
    def _prepared(self, fingerprint: Fingerprint) -> Iterator[ExperimentPlanner]:
        """Give a planner whose dataset has this fingerprint."""
        given = {"gpu_memory_target_in_gb": self._options.gpu_memory_target, "plans_name": self._options.plans_name}
        narration = io.StringIO()  # the planner prints all of its considerations
        with _workspace(self._dataset_json(), fingerprint), contextlib.redirect_stdout(narration):
            try:
                yield self._planner(
                    _NAME,
                    preprocessor_name=self._options.preprocessor,
                    overwrite_target_spacing=self._options.target_spacing,
                    **{name: value for name, value in given.items() if value is not None},
                )
            except Exception as error:
                raise FednnUNetError(
                    f"{self._options.planner} cannot plan for the common fingerprint "
                    f"({type(error).__name__}: {error}): check spacings and shapes of the sites' images."
                ) from error

    def _dataset_json(self) -> dict[str, Any]:
        content = {
            "channel_names": self._facts.channels,
            "labels": self._facts.labels,
            "numTraining": self._cases,
            "file_ending": ".none",
            "overwrite_image_reader_writer": self._facts.image_reader,
            "dataset": {"case": {"images": ["none"], "label": "none"}},
        }
        if self._facts.regions_class_order is not None:
            content["regions_class_order"] = self._facts.regions_class_order
        return content


@contextlib.contextmanager
def _workspace(dataset: dict[str, Any], fingerprint: Fingerprint) -> Iterator[None]:
    """Point nnU-Net at temporary folders that hold a dataset with the federation's facts."""
    with tempfile.TemporaryDirectory(prefix="fednnunet-planning-") as folder:
        folders = {variable: Path(folder) / variable for variable in ("nnUNet_raw", "nnUNet_preprocessed")}
        files = {"nnUNet_raw": ("dataset.json", dataset)}
        files["nnUNet_preprocessed"] = ("dataset_fingerprint.json", fingerprint.to_nnunet())
        for variable, (name, content) in files.items():
            (folders[variable] / _NAME).mkdir(parents=True)
            save_json(content, str(folders[variable] / _NAME / name), sort_keys=False)
        with planner_environment(**{variable: str(path) for variable, path in folders.items()}):
            yield
