"""Exports the global model as nnU-Net's own files: a results folder, and an archive that nnU-Net can install.

``RUN_DIR/nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION`` is what ``nnUNetv2_train`` writes, except for files
that only a site has (log, validation); ``RUN_DIR/DATASET.zip`` is for ``nnUNetv2_install_pretrained_model_from_zip``.
Both contain all finished folds. Files are replaced as a whole, so that readers never see incomplete ones.
"""

import contextlib
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fednnunet.coordinator.common_model import CommonModel
from fednnunet.coordinator.run_folder import FoldFolder, cannot_be_written
from fednnunet.errors import FednnUNetError
from fednnunet.events.events import ModelExported
from fednnunet.files import replacing, write_json
from fednnunet.folds import Fold
from fednnunet.weights.layout import Layout

RESULTS = "nnUNet_results"

_CHECKPOINT = "checkpoint_final.pth"
_TOP = ("plans.json", "dataset.json", "dataset_fingerprint.json")


def export_model(
    run_dir: Path, fold: Fold, weights: np.ndarray, layout: Layout, epochs: int, name: str
) -> ModelExported | None:
    """Write a fold's global model as nnU-Net does, and the archive with all folds of this model that are finished.

    Parameters
    ----------
    run_dir
        The coordinator's run folder.
    fold
        The fold.
    weights
        The global model after the last round: shape ``(layout.size,)``, float32.
    layout
        Its distinct tensors.
    epochs
        How many have been trained.
    name
        What the dataset is called: ``DatasetNNN_NAME``.

    Returns
    -------
    What has been written; ``None`` if nothing is known of how the network is built.

    Raises
    ------
    RunFolderError
        If the files cannot be written.
    """
    model = FoldFolder.of(run_dir, fold).common_model()
    if model is None:
        return None
    folder = run_dir / RESULTS / name / model.folder
    archive = run_dir / f"{name}.zip"
    with _told():
        folds = sorted({f"fold_{fold}", *_finished(run_dir, folder, model)})
        _set_aside(folder, folds)
        _write_model(folder, fold, model, name, (weights, layout), epochs)
        _write_archive(archive, folder, folds)
    return ModelExported(folder=str(folder), archive=str(archive), folds=[fold.removeprefix("fold_") for fold in folds])


def _write_model(
    folder: Path, fold: Fold, model: CommonModel, name: str, packed: tuple[np.ndarray, Layout], epochs: int
) -> None:
    """Write the files that nnU-Net's predictor and ``-pretrained_weights`` read."""
    import torch  # takes seconds

    from fednnunet.weights.packing import state_dict_of

    plans = {**model.plans, "dataset_name": name}
    dataset = {**model.dataset, "numTraining": model.cases}
    contents = {"plans.json": plans, "dataset.json": dataset, "dataset_fingerprint.json": model.fingerprint}
    for file_name, content in contents.items():
        if content is not None:
            write_json(content, folder / file_name)
        else:
            (folder / file_name).unlink(missing_ok=True)
    axes = model.mirroring_axes
    checkpoint = {
        "network_weights": state_dict_of(*packed, model.entries),
        "current_epoch": epochs,
        "init_args": {"plans": plans, "configuration": model.configuration, "fold": fold, "dataset_json": dataset},
        "trainer_name": model.trainer,
        "inference_allowed_mirroring_axes": None if axes is None else tuple(axes),
    }
    with replacing(folder / f"fold_{fold}" / _CHECKPOINT) as temporary:
        torch.save(checkpoint, temporary)


def _write_archive(archive: Path, folder: Path, folds: Sequence[str]) -> None:
    """Write the archive: paths in it begin with the folder of the dataset. Weights cannot be compressed."""
    files = [folder / file_name for file_name in _TOP] + [folder / fold / _CHECKPOINT for fold in folds]
    with replacing(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as content:
        for path in files:
            if path.is_file():
                content.write(path, path.relative_to(folder.parents[1]))


def _finished(run_dir: Path, folder: Path, model: CommonModel) -> Iterator[str]:
    """Yield the other folds of the model that are finished, and have been written."""
    for path in folder.glob(f"fold_*/{_CHECKPOINT}"):
        kept = FoldFolder(run_dir / path.parent.name)
        with contextlib.suppress(FednnUNetError):  # a fold that cannot be read is none that is finished
            description, other = kept.description(), kept.common_model()
            if description is not None and description.finished and other is not None and model.is_of(other):
                yield path.parent.name


def _set_aside(folder: Path, folds: Sequence[str]) -> None:
    """Rename folds of other models, or in training: nnU-Net would predict with them, too."""
    for path in folder.glob("fold_*"):
        if path.name not in folds:
            path.rename(path.with_name(f"until_{time.strftime('%Y-%m-%d_%H-%M-%S')}_{path.name}"))


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise cannot_be_written(error) from error
