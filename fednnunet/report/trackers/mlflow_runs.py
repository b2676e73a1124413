"""Logs each fold to an MLflow run."""

import logging
import os
import time
from collections.abc import Mapping

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read by the import below

from mlflow.entities import Metric, Run
from mlflow.tracking import MlflowClient

from fednnunet.report.trackers.tracker import Opening

_ID = "mlflow_run"
_ROUND = "sites/taking_part"
"""A metric that every round has."""
_AT_ONCE = 1000
"""MLflow's limit of one request."""


class MlflowRun:
    """A run of MLflow, at the server that ``MLFLOW_TRACKING_URI`` names, or else in ``mlflow.db`` of the run folder.

    A training that is continued goes on in its run. MLflow cannot forget, so of a round that comes again it keeps the
    first result.

    Parameters
    ----------
    opening
        What the run is for.
    experiment
        The experiment it belongs to.
    """

    def __init__(self, opening: Opening, experiment: str) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{opening.folder / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=uri)
        kept = opening.kept(_ID)
        self._logged = -1
        if kept is not None:
            history = self._client.get_metric_history(kept, _ROUND)
            self._logged = max((metric.step for metric in history), default=-1)
            self._client.update_run(kept, status="RUNNING")
            self._id = kept
        else:
            self._id = self._new_run(opening, experiment).info.run_id
            opening.keep(_ID, self._id)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send numbers."""
        if _ROUND in metrics:
            if step <= self._logged:
                return
            self._logged = step
        now = int(time.time() * 1000)
        batch = [Metric(name, value, now, step) for name, value in metrics.items()]
        for start in range(0, len(batch), _AT_ONCE):
            self._client.log_batch(self._id, metrics=batch[start : start + _AT_ONCE])

    def close(self) -> None:
        """Mark the run as one that has ended."""
        self._client.set_terminated(self._id)

    def _new_run(self, opening: Opening, experiment: str) -> Run:
        found = self._client.get_experiment_by_name(experiment)
        number = self._client.create_experiment(experiment) if found is None else found.experiment_id
        return self._client.create_run(number, run_name=f"{opening.folder.name} fold {opening.fold}")
