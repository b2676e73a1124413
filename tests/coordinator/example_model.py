"""What sites say of a model that they have in common: a small U-Net of nnU-Net's."""

from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from fednnunet.fingerprint.plans import plans_digest
from fednnunet.protocol.messages import Hello, ModelDescription, TrainingOptions
from fednnunet.weights.packing import layout_of, listing_of, normalization_in, pack
from tests.fingerprint.example_plans import FINGERPRINT, PLANS


def network() -> torch.nn.Module:
    """Return a U-Net with batch normalization, whose state dict has aliases and integer buffers."""
    made: torch.nn.Module = get_network_from_plans(
        "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        {
            "n_stages": 2,
            "features_per_stage": [2, 3],
            "conv_op": "torch.nn.modules.conv.Conv2d",
            "kernel_sizes": [3, 3],
            "strides": [1, 2],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "norm_op": "torch.nn.modules.batchnorm.BatchNorm2d",
            "nonlin": "torch.nn.LeakyReLU",
        },
        ["conv_op", "norm_op", "nonlin"],
        1,
        2,
    )
    return made


_NETWORK = network()
STATE = _NETWORK.state_dict()
LAYOUT = layout_of(STATE)
WEIGHTS = pack(STATE, LAYOUT)
NORMALIZATION = normalization_in(_NETWORK)
"""Names of the tensors of its layers of normalization."""


def hello(site: str = "A", **changes: Any) -> Hello:
    """Return the introduction of a site."""
    facts: dict[str, Any] = {
        "site": site,
        "task": "train",
        "method": "FFE",
        "cases": 7,
        "versions": {},
        "labels": {"background": 0, "tumour": 1},
        "channels": {"0": "CT"},
        "plans_digest": plans_digest(PLANS),
        "training": TrainingOptions(trainer="nnUNetTrainer", configuration="2d"),
    }
    return Hello(**{**facts, **changes})


def description(**changes: Any) -> ModelDescription:
    """Return what a site says of the model."""
    facts: dict[str, Any] = {
        "plans": {**PLANS, "dataset_name": "Federation"},
        "fingerprint": FINGERPRINT,
        "file_ending": ".nii.gz",
        "mirroring_axes": [0, 1],
        "entries": listing_of(STATE),
    }
    return ModelDescription(**{**facts, **changes})
