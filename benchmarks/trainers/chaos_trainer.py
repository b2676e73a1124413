"""A training that is quick, so that most of what happens is what ``chaos.py`` does to it."""

import errno
import os
from pathlib import Path

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class ChaosTrainer(nnUNetTrainer):
    """Draws no plots, and finds the disk full while the file that ``CHAOS_FULL_DISK`` names exists."""

    def on_train_start(self):
        super().on_train_start()
        torch.set_num_threads(1)
        self.logger.plot_progress_png = lambda output_folder: None

    def save_checkpoint(self, filename):
        if Path(os.environ["CHAOS_FULL_DISK"]).exists():
            Path(filename).write_bytes(b"half a checkpoint")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), filename)
        super().save_checkpoint(filename)
