"""A fingerprint and plans as nnU-Net's planner writes them for large images of one channel."""

from typing import Any

_INTENSITIES = {
    "0": {
        "mean": 0.0,
        "median": 1.0,
        "std": 2.0,
        "min": -3.0,
        "max": 4.0,
        "percentile_99_5": 3.5,
        "percentile_00_5": -2.5,
    }
}


def _configuration(name: str, axes: int, stages: int) -> dict[str, Any]:
    resampling: dict[str, Any] = {}
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        resampling[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        resampling[f"resampling_fn_{what}_kwargs"] = {
            "is_seg": what == "seg",
            "order": order,
            "order_z": 0,
            "force_separate_z": None,
        }
    return {
        "data_identifier": f"nnUNetPlans_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [64] * axes,
        "median_image_size_in_voxels": [700.0, 900.0, 900.0][-axes:],
        "spacing": [1.0, 0.5, 0.5][-axes:],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": axes == 2,
        **resampling,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": [32 * 2**stage for stage in range(stages)],
                "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
                "kernel_sizes": [[3] * axes] * stages,
                "strides": [[1] * axes] + [[2] * axes] * (stages - 1),
                "n_conv_per_stage": [2] * stages,
                "n_conv_per_stage_decoder": [2] * (stages - 1),
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }


PLANS: dict[str, Any] = {
    "dataset_name": "Dataset001_Federation",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": [1.0, 0.5, 0.5],
    "original_median_shape_after_transp": [700, 900, 900],
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "configurations": {
        "2d": _configuration("2d", 2, 4),
        "3d_lowres": {**_configuration("3d_lowres", 3, 4), "next_stage": "3d_cascade_fullres"},
        "3d_fullres": _configuration("3d_fullres", 3, 4),
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    },
    "experiment_planner_used": "ExperimentPlanner",
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": _INTENSITIES,
}

FINGERPRINT: dict[str, Any] = {
    "spacings": [[1.0, 0.5, 0.5]] * 3,
    "shapes_after_crop": [[700, 900, 900]] * 3,
    "foreground_intensity_properties_per_channel": _INTENSITIES,
    "median_relative_size_after_cropping": 0.9,
}
