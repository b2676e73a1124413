"""Plans from a fingerprint alone: nnU-Net's own planner, run where there is no image."""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nnunetv2
from batchgenerators.utilities.file_and_folder_operations import load_json, save_json
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from fednnunet.channel.messages import Hello
from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.fingerprint import Fingerprint

_NAME = "Dataset001_Federation"


def make_plans(fingerprint: Fingerprint, hellos: Sequence[Hello]) -> dict[str, Any]:
    """Return the plans that nnU-Net's planner makes of a common fingerprint.

    The planner class runs unmodified on a dataset that has a ``dataset.json`` and a fingerprint, but no image.
    ``numTraining`` is the federation's number of cases, as the planner's cap on the batch size wants it.

    Parameters
    ----------
    fingerprint
        The common fingerprint.
    hellos
        How the sites introduced themselves; they agree in all that is used here but the number of cases.

    Raises
    ------
    FednnUNetError
        If there is no such planner here, or it cannot plan for this fingerprint.
    """
    facts = hellos[0]
    if facts.planner is None:
        raise FednnUNetError(f"Site {facts.site} names no planner: start all nodes with plan_and_preprocess.")
    folder = str(Path(nnunetv2.__path__[0]) / "experiment_planning")
    planner = recursive_find_python_class(folder, facts.planner.planner, "nnunetv2.experiment_planning")
    if planner is None:
        raise FednnUNetError(
            f"The coordinator has no planner '{facts.planner.planner}': install it as at the sites, or correct -pl."
        )
    narration = io.StringIO()  # the planner prints all of its considerations
    with _workspace(facts, fingerprint, sum(hello.cases for hello in hellos)), contextlib.redirect_stdout(narration):
        try:
            _, name = plan_experiment_dataset(
                _NAME,
                planner,
                facts.planner.gpu_memory_target,
                facts.planner.preprocessor,
                facts.planner.target_spacing,
                facts.planner.plans_name,
            )
        except Exception as error:
            raise FednnUNetError(
                f"{facts.planner.planner} cannot plan for the common fingerprint ({type(error).__name__}: {error}): "
                "check spacings and shapes of the sites' images."
            ) from error
        plans: dict[str, Any] = load_json(str(Path(os.environ["nnUNet_preprocessed"]) / _NAME / f"{name}.json"))
    return plans


@contextlib.contextmanager
def _workspace(facts: Hello, fingerprint: Fingerprint, cases: int) -> Iterator[None]:
    """Point nnU-Net at temporary folders that hold a dataset with the federation's facts."""
    dataset = {
        "channel_names": facts.channels,
        "labels": facts.labels,
        "numTraining": cases,
        "file_ending": ".none",
        "overwrite_image_reader_writer": facts.image_reader,
        "dataset": {"case": {"images": ["none"], "label": "none"}},
    }
    if facts.regions_class_order is not None:
        dataset["regions_class_order"] = facts.regions_class_order
    folders = ("nnUNet_raw", "nnUNet_preprocessed")
    # the planner takes this for torch's number of threads, which must not be 0
    variables = (*folders, "nnUNet_n_proc_DA")
    before = {variable: os.environ.get(variable) for variable in variables}
    with tempfile.TemporaryDirectory(prefix="fednnunet-planning-") as folder:
        os.environ["nnUNet_n_proc_DA"] = "1"
        for variable in folders:
            os.environ[variable] = str(Path(folder) / variable)
            (Path(folder) / variable / _NAME).mkdir(parents=True)
        save_json(dataset, str(Path(folder) / "nnUNet_raw" / _NAME / "dataset.json"), sort_keys=False)
        save_json(
            fingerprint.to_nnunet(),
            str(Path(folder) / "nnUNet_preprocessed" / _NAME / "dataset_fingerprint.json"),
            sort_keys=False,
        )
        try:
            yield
        finally:
            for variable, value in before.items():
                if value is None:
                    del os.environ[variable]
                else:
                    os.environ[variable] = value
