"""Logs each fold to TensorBoard files in the run folder."""

import logging
import time
from collections.abc import Mapping

from tensorboardX import SummaryWriter

from fednnunet.report.trackers.tracker import Opening

FOLDER = "tensorboard"


class TensorBoardFiles:
    """Writes the event files that ``tensorboard --logdir RUN_DIR/tensorboard`` shows.

    Parameters
    ----------
    opening
        What they are for. TensorBoard hides what an earlier writer has written of the rounds that come again.
    """

    def __init__(self, opening: Opening) -> None:
        folder = opening.folder / FOLDER / f"fold_{opening.fold}"
        # TensorBoard reads the files in the order of their names, which otherwise tell the second only
        suffix = f".{time.time_ns()}"
        logging.getLogger("tensorboardX").setLevel(logging.WARNING)  # it tells of each name that it changes
        self._writer = SummaryWriter(str(folder), purge_step=opening.first_round, filename_suffix=suffix)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write numbers, visible at once."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
