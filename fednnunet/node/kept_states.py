"""A node's state of a training on disk, so that a new process can continue after the last round.

The states of the last two saved rounds are in the folder ``federated`` beside nnU-Net's checkpoints, in nnU-Net's own
format, and are removed at the end. A state is the trainer after validating the round's global model and before ending
the epoch; the JSON file is written last and makes it valid.
"""

import contextlib
import json
import logging
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from fednnunet.errors import FednnUNetError
from fednnunet.files import read_json_object, replacing, write_json
from fednnunet.nnunet_defaults import FINAL_CHECKPOINT

logger = logging.getLogger(__name__)

_KEPT = 2
_MARKER = "federated_run.txt"
"""Names the training of which the fold's checkpoints are, or will be."""
_TRAINED = "federated_cases.json"
"""The cases that have trained in that training."""


@dataclass(frozen=True)
class KeptState:
    """A state on disk.

    Attributes
    ----------
    run
        The training that it belongs to.
    round
        The round after which it was kept.
    """

    run: str
    round: int


class KeptStates:
    """The states of one fold's training at one site.

    Parameters
    ----------
    output_folder
        nnU-Net's folder of the fold.
    """

    def __init__(self, output_folder: Path) -> None:
        self._final = output_folder / FINAL_CHECKPOINT
        self._marker = output_folder / _MARKER
        self._folder = output_folder / "federated"
        self._trained = output_folder / _TRAINED

    def all(self) -> list[KeptState]:
        """Return the stored states, oldest first."""
        return sorted(self._valid(), key=lambda state: state.round)

    def is_begun(self, run: str) -> bool:
        """Return whether the fold's folder is that of this training."""
        return self._marker.is_file() and self._marker.read_text(encoding="utf-8") == run

    def is_final(self, run: str) -> bool:
        """Return whether this training has a final checkpoint."""
        return self.is_begun(run) and self._final.is_file()

    def begin(self, run: str, overwrite: bool) -> None:
        """Refuse to overwrite another training, including stock nnU-Net's, and record this one.

        Raises
        ------
        FednnUNetError
            If there is another training, unless it may be overwritten.
        """
        begun = self._marker.read_text(encoding="utf-8") if self._marker.is_file() else None
        if begun != run and self._final.is_file() and not overwrite:
            raise FednnUNetError(
                "this site has a finished training of this fold: continue with --c and the --run_dir of that "
                "training at the coordinator, or give this node --overwrite"
            )
        others = [state for state in self.all() if state.run != run]
        if others and not overwrite:
            raise FednnUNetError(
                f"this site has kept round {others[-1].round} of another training of this fold, which is not finished: "
                "continue that one with --c at the coordinator, or give this node --overwrite"
            )
        if others:
            self.clear()
        if begun != run:
            with replacing(self._marker) as temporary:
                temporary.write_text(run, encoding="utf-8")

    def check_split(self, run: str, training: Collection[str], validation: Collection[str]) -> None:
        """Warn if cases validate that have trained in this training before, and remember those that train now.

        A case may go, if a patient withdraws it; but one that changes sides makes figures better than they are.
        """
        before = self._trained_in(run)
        trained = before or set()
        changed = sorted((trained - set(training)).intersection(validation))
        if changed:
            logger.warning(
                "Of the cases that validate now, %d have trained in this training before (%s): its figures will be "
                "better than they should be. Bring splits_final.json back as it was, and start the node again.",
                *(len(changed), changed[0] if len(changed) == 1 else f"{changed[0]} …"),
            )
        if before is None or not trained.issuperset(training):
            write_json({"run": run, "cases": sorted(trained.union(training))}, self._trained)

    def trained_cases(self) -> set[str] | None:
        """Return the cases that have trained in the training that the fold's folder is of, ``None`` if not known."""
        run = self._marker.read_text(encoding="utf-8") if self._marker.is_file() else None
        return None if run is None else self._trained_in(run)

    def _trained_in(self, run: str) -> set[str] | None:
        kept: dict[str, Any] = {}
        with contextlib.suppress(FednnUNetError):  # there is none yet, or it is damaged: nothing is known then
            kept = read_json_object(self._trained, "remove it")
        cases = kept.get("cases") if kept.get("run") == run else None
        return {case for case in cases if isinstance(case, str)} if isinstance(cases, list) else None

    def keep_arrays(self, round_number: int, trainer: nnUNetTrainer, rounding_error: np.ndarray | None) -> bool:
        """Write the large files: nnU-Net's checkpoint, and the rounding error, if any.

        Returns
        -------
        Whether there is one now: the trainer may be of a kind that saves none.
        """
        with contextlib.suppress(_NothingSavedError), replacing(self._path(round_number, "pth")) as temporary:
            trainer.save_checkpoint(str(temporary))
            if not temporary.exists():
                raise _NothingSavedError
        if not self._path(round_number, "pth").exists():
            return False
        if rounding_error is not None:
            with replacing(self._path(round_number, "npy")) as temporary, temporary.open("wb") as file:
                np.save(file, rounding_error, allow_pickle=False)
        return True

    def keep_log(self, run: str, round_number: int, log: dict[str, Any]) -> None:
        """Write the rest, which makes the state valid, and remove states that are older than the one before."""
        with replacing(self._path(round_number, "json")) as temporary:
            text = json.dumps({"run": run, "round": round_number, "log": log}, default=float)
            temporary.write_text(text, encoding="utf-8")
        for state in self.all()[:-_KEPT]:
            self._remove(state)

    def restore(self, run: str, round_number: int, trainer: nnUNetTrainer) -> tuple[bool, np.ndarray | None]:
        """Restore a trainer to the state of a round, and remove later states.

        Returns
        -------
        Whether there is such a state, and the rounding error that goes with it, if any.
        """
        for state in self.all():
            if state.run == run and state.round > round_number:  # the coordinator has gone back: that one comes again
                self._remove(state)
        if KeptState(run, round_number) not in self.all():
            return False, None
        try:
            content = json.loads(self._path(round_number, "json").read_text(encoding="utf-8"))
            error = self._path(round_number, "npy")
            rounding_error = np.load(error, allow_pickle=False) if error.exists() else None
            trainer.load_checkpoint(str(self._path(round_number, "pth")))
        except Exception as error:  # torch raises whatever a damaged file makes it stumble over
            logger.warning("The state of round %d cannot be read, continuing without it: %s", round_number, error)
            return False, None
        trainer.logger.load_checkpoint(content["log"])
        trainer.current_epoch -= 1  # checkpoints name the epoch that comes next, but this one has not been ended
        return True, rounding_error

    def _remove(self, state: KeptState) -> None:
        for suffix in ("json", "npy", "pth"):
            path = self._path(state.round, suffix)
            if path.is_dir():  # nothing that was kept, but in the way of what will be
                shutil.rmtree(path)
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all states."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _valid(self) -> Iterator[KeptState]:
        for path in self._folder.glob("round_*.json"):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                yield KeptState(str(content["run"]), int(content["round"]))
            except (OSError, ValueError, KeyError) as error:
                logger.warning("%s cannot be read, continuing without it: %s", path, error)

    def _path(self, round_number: int, suffix: str) -> Path:
        return self._folder / f"round_{round_number:06d}.{suffix}"


class _NothingSavedError(Exception):
    """A trainer's ``save_checkpoint`` has written no file."""
