"""Where the numbers of a training go so that other programs can draw them: TensorBoard, Weights & Biases, MLflow."""

from fednnunet.report.trackers.choice import check_trackers, trackers_for

__all__ = ["check_trackers", "trackers_for"]
