"""A narrow network that learns in a few hundred iterations, for comparing methods on a CPU."""

from copy import deepcopy

import torch
from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerAdam


class LightTrainer(nnUNetTrainerAdam):
    """Trains a quarter of the planned features with AdamW and without mirroring, which takes long to learn from."""

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict, device: torch.device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = 3e-3

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):  # noqa: N802
        rotation, dummy_2d, patch_size, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return rotation, dummy_2d, patch_size, None

    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, channels, outputs, enable_deep_supervision=True
    ):
        light = deepcopy(configuration_manager)
        kwargs = light.configuration["architecture"]["arch_kwargs"]
        kwargs["features_per_stage"] = [features // 4 for features in kwargs["features_per_stage"]]
        return nnUNetTrainerAdam.build_network_architecture(
            plans_manager, light, channels, outputs, enable_deep_supervision
        )
