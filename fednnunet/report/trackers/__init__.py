"""Sends the metrics of a training to experiment trackers: TensorBoard, Weights & Biases, MLflow."""

from fednnunet.report.trackers.choice import check_trackers, trackers_for

__all__ = ["check_trackers", "trackers_for"]
