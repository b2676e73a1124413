"""Predicts cases with a trained nnU-Net, as ``nnUNetv2_predict`` does with the same flags."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from fednnunet.folds import Fold, check_fold
from fednnunet.nnunet_defaults import use_device

if TYPE_CHECKING:
    import torch

CHECKPOINT = "checkpoint_final.pth"


def evaluation_name(fold: str, checkpoint: str) -> str:
    """Return what an evaluation is called: ``evaluation_FOLD``, and the checkpoint if it is not the final one.

    Parameters
    ----------
    fold
        The FOLD argument.
    checkpoint
        Name of a file; it may be what somebody else has sent.

    Raises
    ------
    FednnUNetError
        If `fold` is none.
    """
    check_fold(fold)
    stem = "".join(char if char.isalnum() or char in "_-" else "_" for char in Path(checkpoint).stem)
    return f"evaluation_{fold}" + ("" if checkpoint == CHECKPOINT else f"_{stem}")


@dataclass(frozen=True)
class TrainedModel:
    """A results folder of nnU-Net, ``…/TRAINER__PLANS__CONFIGURATION``, and what is taken of it.

    Attributes
    ----------
    folds
        Folds whose networks predict together: their logits are averaged.
    checkpoint
        Name of the file in each fold's folder.
    """

    folder: Path
    folds: tuple[Fold, ...]
    checkpoint: str = CHECKPOINT

    @property
    def checkpoints(self) -> list[Path]:
        """The files of all folds."""
        return [self.folder / f"fold_{fold}" / self.checkpoint for fold in self.folds]


class Predictor:
    """Predicts one case after the other, in this process; nnU-Net's worker processes would not tell how far they are.

    What nnU-Net prints goes to a file.

    Parameters
    ----------
    model
        The model. Its checkpoints are read with pickle, so they must be the user's own or from somebody trusted.
    device
        ``cuda``, ``cpu`` or ``mps``.
    log
        File to which nnU-Net's output is appended; its folder exists.
    mirror
        Whether to average over mirrored images (test-time augmentation).
    step_size
        Step of the sliding window, as a share of the patch.
    """

    def __init__(
        self, model: TrainedModel, device: str, log: Path, *, mirror: bool = True, step_size: float = 0.5
    ) -> None:
        self._log = log
        with self._quietly():
            # takes seconds
            from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

            self._predictor = nnUNetPredictor(
                tile_step_size=step_size,
                use_mirroring=mirror,
                perform_everything_on_device=device == "cuda",
                device=use_device(device),
                allow_tqdm=False,
            )
            self._predictor.initialize_from_trained_model_folder(str(model.folder), model.folds, model.checkpoint)

    def predict(self, images: Sequence[str], output: Path) -> Path:
        """Predict a case in full size and write the segmentation; return its file.

        Parameters
        ----------
        images
            The files of all channels.
        output
            The file without its ending, which is that of the model's dataset; its folder exists.
        """
        with self._quietly():
            self._predictor.predict_from_files_sequential([list(images)], [str(output)])
        return output.with_name(output.name + str(self._predictor.dataset_json["file_ending"]))

    def logits(self, image: npt.NDArray[np.float32]) -> "torch.Tensor":
        """Return the network's outputs for a preprocessed image, before softmax or sigmoid.

        Parameters
        ----------
        image
            Shape ``(channels, z, y, x)``.

        Returns
        -------
        Shape ``(outputs, z, y, x)``, float16, on the CPU.
        """
        import torch

        with self._quietly():
            logits: torch.Tensor = self._predictor.predict_logits_from_preprocessed_data(torch.from_numpy(image))
        return logits

    def segmentation(self, logits: "torch.Tensor") -> npt.NDArray[np.integer]:
        """Return the label image, shape ``(z, y, x)``, of what `logits` has returned."""
        return np.asarray(self._predictor.label_manager.convert_logits_to_segmentation(logits))

    def preprocess(self, images: Sequence[str], segmentation: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return image and labels of a case, both of shape ``(channels, z, y, x)``, as in nnU-Net's preprocessing."""
        configuration = self._predictor.configuration_manager
        with self._quietly():
            data, truth, _ = configuration.preprocessor_class(verbose=False).run_case(
                list(images), segmentation, self._predictor.plans_manager, configuration, self._predictor.dataset_json
            )
        return data, truth

    @property
    def reader(self) -> BaseReaderWriter:
        """What reads the images and segmentations of the model's dataset."""
        return self._predictor.plans_manager.image_reader_writer_class()

    @contextlib.contextmanager
    def _quietly(self) -> Iterator[None]:
        with self._log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
            yield
