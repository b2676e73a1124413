"""nnU-Net's own flags, spelled as nnU-Net 2.8.1 spells them: same name, same default, same meaning.

``dest`` is the name of a flag's value in our settings, where nnU-Net's is a letter or two.

The sources are ``nnunetv2/run/run_training.py``, ``nnunetv2/inference/predict_from_raw_data.py`` and
``nnunetv2/experiment_planning/plan_and_preprocess_entrypoints.py``;
``tests/settings/test_nnunet_flags.py`` compares these lists with nnU-Net's parsers.
"""

import os
from typing import Any

from fednnunet.settings.flag import Flag

DEFAULT_CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")


def _switch(name: str, help: str, **keywords: Any) -> Flag:
    return Flag(name, help, {"action": "store_true", **keywords})


def _value(name: str, help: str, **keywords: Any) -> Flag:
    return Flag(name, help, keywords)


TRAIN_FLAGS = (
    _value("-tr", "trainer class (default: %(default)s)", type=str, default="nnUNetTrainer", dest="trainer"),
    _value("-p", "plans identifier (default: %(default)s)", type=str, default="nnUNetPlans", dest="plans"),
    _value("-pretrained_weights", "nnU-Net checkpoint to start from", type=str, default=None),
    _value("-num_gpus", "GPUs per site; more than one is not supported yet", type=int, default=1),
    _switch("--npz", "final validation also saves softmax probabilities"),
    _switch("--c", "continue the training from the last complete round", dest="resume"),
    _switch("--val", "only run the final validation of a finished training", dest="validation_only"),
    _switch("--val_best", "run the final validation with checkpoint_best instead of checkpoint_final"),
    _switch("--disable_checkpointing", "write no checkpoints"),
    _value("-device", "cuda, cpu or mps (default: %(default)s); choose a GPU with CUDA_VISIBLE_DEVICES", type=str,
           default="cuda"),
)  # fmt: skip

EVALUATE_FLAGS = (
    *(flag for flag in TRAIN_FLAGS if flag.name in {"-tr", "-p", "-device"}),
    _value("-step_size", "step of the sliding window, as a share of the patch (default: %(default)s)", type=float,
           default=0.5),
    _switch("--disable_tta", "no test-time augmentation by mirroring: faster, a little less exact"),
)  # fmt: skip
"""Those of ``nnUNetv2_predict`` that shape a prediction."""

_DATASET = _value("-d", "dataset id, as in nnU-Net instead of by position", nargs="+", type=int, default=None)
_EXTRACTOR = _value("-fpe", "fingerprint extractor class (default: %(default)s)", type=str,
                    default="DatasetFingerprintExtractor", dest="extractor")  # fmt: skip
_VERIFY = _switch("--verify_dataset_integrity", "check the dataset first; recommended once per dataset")
_CLEAN = _switch("--clean", "read all images again even if they were measured before")
_LOGGING = (_switch("--verbose", "say more"), _switch("--no_pbar", "no progress bars"))

EXTRACT_FINGERPRINT_FLAGS = (
    _DATASET,
    _EXTRACTOR,
    _value("-np", "processes for the extraction (default: %(default)s)", type=int,
           default=int(os.environ.get("nnUNet_def_n_proc", "8")), dest="extraction_processes"),
    _VERIFY,
    _CLEAN,
    *_LOGGING,
)  # fmt: skip

PLANNER_FLAGS = (
    _value(
        "-pl", "experiment planner class (default: %(default)s)", type=str, default="ExperimentPlanner", dest="planner"
    ),
    _value("-gpu_memory_target", "GPU memory that the plans may use, in GB", default=None, type=float),
    _value("-preprocessor_name", "preprocessor class (default: %(default)s)", default="DefaultPreprocessor", type=str),
    _value("-overwrite_target_spacing", "target spacing of 3d_fullres, three numbers in mm", default=None, nargs="+"),
    _value("-overwrite_plans_name", "name of the plans, instead of the default", default=None),
)
"""The flags that shape the plans: they must be the same at every site."""

PLAN_AND_PREPROCESS_FLAGS = (
    _DATASET,
    _EXTRACTOR,
    _value("-npfp", "processes for the fingerprint extraction (default: %(default)s)", type=int, default=8,
           dest="extraction_processes"),
    _VERIFY,
    _switch("--no_pp", "fingerprint and plans only, no preprocessing"),
    _CLEAN,
    *PLANNER_FLAGS,
    _value("-c", "configurations to preprocess (default: 2d 3d_fullres 3d_lowres)", nargs="+",
           default=list(DEFAULT_CONFIGURATIONS), dest="configurations"),
    _value("-np", "preprocessing processes: one number, or one for each configuration (default: 8 for 2d and "
           "3d_lowres, 4 for the others)", type=int, nargs="+", default=None, dest="preprocessing_processes"),
    *_LOGGING,
)  # fmt: skip

FLAGS_OF_TASK = {
    "extract_fingerprint": EXTRACT_FINGERPRINT_FLAGS,
    "plan_and_preprocess": PLAN_AND_PREPROCESS_FLAGS,
    "train": TRAIN_FLAGS,
    "evaluate": EVALUATE_FLAGS,
}
