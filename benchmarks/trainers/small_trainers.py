"""nnU-Net's trainer, and one with AdamW, for studies with small networks: full validation without mirroring."""

from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class SmallTrainer(nnUNetTrainer):
    """SGD with Nesterov momentum 0.99, as nnU-Net has it."""

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> Any:  # noqa: N802, nnU-Net's name
        """Let predictions be made once, not once for each mirror image."""
        made = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return made


class SmallAdamWTrainer(SmallTrainer):
    """AdamW with a learning rate of 0.001."""

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Return AdamW and nnU-Net's schedule."""
        self.initial_lr = 1e-3
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)
