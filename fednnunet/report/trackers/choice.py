"""Selects the trackers of a run."""

import importlib.util
from pathlib import Path

from fednnunet.errors import FednnUNetError
from fednnunet.report.trackers.sink import TrackerSink
from fednnunet.report.trackers.tracker import Opening, OpenTracker, Tracker


def check_trackers(wandb_project: str | None, mlflow_experiment: str | None) -> None:
    """Refuse what cannot be tracked, before anything starts.

    Parameters
    ----------
    wandb_project
        Project at Weights & Biases, if one is wanted.
    mlflow_experiment
        Experiment of MLflow, if one is wanted.

    Raises
    ------
    FednnUNetError
        If a package is missing, or Weights & Biases would have to ask for a key.
    """
    for flag, module, wanted in (("wandb", "wandb", wandb_project), ("mlflow", "mlflow", mlflow_experiment)):
        if wanted is not None and importlib.util.find_spec(module) is None:
            raise FednnUNetError(
                f"--{flag} needs a package that is not installed: install it with pip install 'fednnunet[{flag}]'."
            )
    if wandb_project is not None:
        from fednnunet.report.trackers.wandb_runs import is_logged_in

        if not is_logged_in():
            raise FednnUNetError(
                "--wandb needs an API key of Weights & Biases: run 'wandb login', or set WANDB_MODE=offline."
            )


def trackers_for(run_dir: Path, wandb_project: str | None, mlflow_experiment: str | None) -> TrackerSink:
    """Return a sink for the trackers of a run: TensorBoard always, the others where they are wanted.

    Parameters
    ----------
    run_dir
        The run folder.
    wandb_project, mlflow_experiment
        As for `check_trackers`.
    """
    trackers: list[tuple[str, OpenTracker]] = [("TensorBoard", _open_tensorboard)]
    if wandb_project is not None:
        trackers.append(("Weights & Biases", lambda opening: _open_wandb(opening, wandb_project)))
    if mlflow_experiment is not None:
        trackers.append(("MLflow", lambda opening: _open_mlflow(opening, mlflow_experiment)))
    return TrackerSink(run_dir, trackers)


# imported when they are opened, in the threads of the trackers: the packages take seconds


def _open_tensorboard(opening: Opening) -> Tracker:
    from fednnunet.report.trackers.tensorboard_files import TensorBoardFiles

    return TensorBoardFiles(opening)


def _open_wandb(opening: Opening, project: str) -> Tracker:
    from fednnunet.report.trackers.wandb_runs import WandbRun

    return WandbRun(opening, project)


def _open_mlflow(opening: Opening, experiment: str) -> Tracker:
    from fednnunet.report.trackers.mlflow_runs import MlflowRun

    return MlflowRun(opening, experiment)
