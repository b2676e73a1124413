"""Lists nnU-Net's classes for which the exact fingerprint is exact; tests compare each with pooled data."""

EXTRACTOR = "DatasetFingerprintExtractor"

PLANNERS = (
    "ExperimentPlanner",
    "ResEncUNetPlanner",
    "nnUNetPlannerResEncM",
    "nnUNetPlannerResEncL",
    "nnUNetPlannerResEncXL",
    "nnUNetPlanner_torchres",
    "nnUNetPlannerResEncL_torchres",
    "nnUNetPlannerResEncL_torchres_sepz",
    "nnUNetPlannerResEncL_noResampling",
)
"""All planners of nnU-Net 2.8.1.

They read medians of spacings and shapes and, of an anisotropic axis, the 10th percentile of the spacings.
"""
