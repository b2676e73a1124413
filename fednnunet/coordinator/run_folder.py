"""The coordinator's state of a training on disk, sufficient to continue after the failure of any process.

``RUN_DIR/fold_X`` holds ``run.json`` (the settings agreed at the start), ``model.json`` (the description of the
network), ``history.jsonl`` (one line per completed round) and ``model_NNNNNN.npz`` (the global model and the state of
the server optimizer after a round) of the last two saved rounds, and of a few earlier ones, to which
`FoldFolder.roll_back` can return. Each file is replaced as a whole, and zip's checksums reveal a damaged model.
"""

import contextlib
import logging
import os
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field

from fednnunet.coordinator.common_model import CommonModel
from fednnunet.coordinator.exchange import Averaging
from fednnunet.errors import FednnUNetError
from fednnunet.files import alone, replacing, when_files_can_be_opened
from fednnunet.protocol.messages import RoundReport, Schedule
from fednnunet.protocol.secure_aggregation import SignedKeys
from fednnunet.schema import Message
from fednnunet.weights.layout import Layout, TensorSpec
from fednnunet.weights.sharing import Group

logger = logging.getLogger(__name__)

HISTORY = "history.jsonl"
DESCRIPTION = "run.json"
_COPY = "run_copy.json"
"""The description once more: without it, all models would be of no use."""
MODEL = "model.json"
_KEYS = "masked_round.json"

_KEPT = 2


class CanGoOnError(FednnUNetError):
    """A training ends that can be continued once something is mended at the coordinator: nodes wait for it."""


class RunFolderError(CanGoOnError):
    """The run folder cannot be written."""


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_be_written(error) from error


def cannot_be_written(error: Exception) -> RunFolderError:
    """Return the message about an error in writing to the run folder."""
    reason = getattr(error, "strerror", None) or error
    return RunFolderError(
        f"The run folder cannot be written ({reason}, {getattr(error, 'filename', None) or 'a file in it'}): fix "
        "that, and start the coordinator again with --c."
    )


class SharedTensors(Message):
    """Tensors that are averaged among sites."""

    sites: list[str] = Field(min_length=1)
    tensors: list[TensorSpec] = Field(min_length=1)


class RunDescription(Message):
    """Settings agreed when a fold's training started.

    `averaging` and what else the coordinator's flags say cannot change when the training is continued.
    """

    run: str
    fold: int | Literal["all"]
    sites: dict[str, int] = Field(description="weight of each site")
    plans: dict[str, str | None] = Field(description="digest of each site's plans")
    models: list[str] = Field(default_factory=list, description="TRAINER__PLANS__CONFIGURATION of the sites")
    schedule: Schedule
    averaging: Averaging
    flags: dict[str, str | bool | None] = Field(description="what else shapes the training")
    shared: list[SharedTensors]
    at_end: list[TensorSpec] = Field(
        default_factory=list, description="what stays at the sites, but for its mean in the exported model"
    )
    began: float = Field(default_factory=time.time, description="seconds since 1970")
    finished: bool = False

    @property
    def groups(self) -> list[Group]:
        """The shared tensors, by group of sites."""
        return [Group(tuple(part.sites), Layout(tuple(part.tensors))) for part in self.shared]

    @property
    def model(self) -> Layout:
        """The tensors of the model that is exported, if the sites have one in common."""
        return Layout((*self.shared[0].tensors, *self.at_end))


class _RoundKeys(Message):
    """One-time keys of the masked sums of a round."""

    round: int
    sums: list[SignedKeys]


class RoundRecord(Message):
    """A complete round."""

    round: int = Field(ge=1)
    seconds: float
    attempts: int = Field(default=1, ge=1)
    sites: dict[str, RoundReport]
    left_out: dict[str, str] = Field(default_factory=dict, description="sites that took no part, and why")
    norms: dict[str, float] = Field(
        default_factory=dict, description="root mean square of what each site's update would have changed"
    )


def alone_in(run_dir: Path) -> AbstractContextManager[None]:
    """Be the only coordinator of a run folder, as long as the context lasts.

    Raises
    ------
    FednnUNetError
        On entering, if there is another one.
    """
    return alone(
        run_dir / "coordinator.lock", f"Another coordinator is running in {run_dir}: stop it, or choose another folder."
    )


def folds_in(run_dir: Path) -> list[str]:
    """Return the folds of which a run folder holds a training."""
    folders = sorted(path for path in run_dir.glob("fold_*") if FoldFolder(path).models())
    return [path.name.removeprefix("fold_") for path in folders if "_until_" not in path.name]


class FoldFolder:
    """The folder of one fold's training.

    Parameters
    ----------
    path
        ``RUN_DIR/fold_X``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, run_dir: Path, fold: int | str) -> Self:
        """Return the folder of a fold."""
        return cls(run_dir / f"fold_{fold}")

    def description(self) -> RunDescription | None:
        """Return the settings of the existing training; ``None`` if there is none.

        Raises
        ------
        FednnUNetError
            If the file is damaged.
        """
        problem = "it does not exist"
        for path in (self.path / DESCRIPTION, self.path / _COPY):
            try:
                description = RunDescription.from_json(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue
            except (FednnUNetError, OSError, UnicodeDecodeError) as error:
                problem = str(error)
                continue
            if path.name == _COPY:
                logger.warning("%s cannot be read (%s), using the copy.", self.path / DESCRIPTION, problem)
            return description
        if self.models() or (self.path / DESCRIPTION).is_file():
            kept = ", ".join(map(str, self.models())) or "none"
            raise FednnUNetError(
                f"{self.path / DESCRIPTION} cannot be read ({problem}). The models beside it are intact (of rounds "
                f"{kept}): restore the file from a backup, or move the folder away to start over."
            )
        return None

    def begin(self, description: RunDescription, model: Mapping[str, np.ndarray] | None = None) -> None:
        """Store settings and the first global model, and replace any previous training.

        The model comes first: a training that is described can be continued.
        """
        with _told():
            if self.path.exists():
                shutil.rmtree(self.path)
            if model is not None:
                self.keep_model(0, model)
            self.describe(description)

    @when_files_can_be_opened
    def describe(self, description: RunDescription) -> None:
        """Replace the settings."""
        for name in (_COPY, DESCRIPTION):
            with _told(), replacing(self.path / name) as temporary:
                temporary.write_text(description.to_json(), encoding="utf-8")

    def common_model(self) -> CommonModel | None:
        """Return how the network is built; ``None`` if that is not known, or the file is damaged."""
        path = self.path / MODEL
        try:
            return CommonModel.from_json(path.read_text(encoding="utf-8")) if path.is_file() else None
        except (FednnUNetError, OSError, UnicodeDecodeError) as error:
            logger.warning("%s cannot be read: %s", path, error)
            return None

    @when_files_can_be_opened
    def keep_common_model(self, model: CommonModel) -> None:
        """Keep how the network is built."""
        with _told(), replacing(self.path / MODEL) as temporary:
            temporary.write_text(model.to_json(), encoding="utf-8")

    def set_aside(self) -> None:
        """Rename the folder of a training that is finished, to make place for another one."""
        with _told():
            name = f"{self.path.name}_until_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
            self.path.rename(self.path.with_name(name))

    @when_files_can_be_opened
    def keep_model(self, round_number: int, state: Mapping[str, np.ndarray]) -> None:
        """Keep the global model after a round, and forget those older than the one before, but for a few."""
        with _told(), replacing(self._model(round_number)) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **state)
        self._remove([number for number in self.models()[:-_KEPT] if not _is_sparse(number, round_number)])

    @when_files_can_be_opened
    def keep_keys(self, round_number: int, keys: Sequence[SignedKeys]) -> None:
        """Keep the one-time keys of a round's masked sums, before the first site opens one."""
        with _told(), replacing(self.path / _KEYS) as temporary:
            temporary.write_text(_RoundKeys(round=round_number, sums=list(keys)).to_json(), encoding="utf-8")

    def kept_keys(self, round_number: int) -> list[SignedKeys]:
        """Return the one-time keys of a round's masked sums, if some were kept and can be read."""
        path = self.path / _KEYS
        try:
            kept = _RoundKeys.from_json(path.read_text(encoding="utf-8")) if path.is_file() else None
        except (FednnUNetError, OSError, UnicodeDecodeError) as error:
            logger.warning("%s cannot be read, its round begins anew: %s", path, error)
            return []
        return kept.sums if kept is not None and kept.round == round_number else []

    def forget_keys(self) -> None:
        """Forget the one-time keys: the round is complete, or begins anew."""
        with _told():
            (self.path / _KEYS).unlink(missing_ok=True)

    def last_model(self, rounds: int) -> tuple[int, dict[str, np.ndarray]]:
        """Return the last model that can be read, and the round after which it was kept.

        Parameters
        ----------
        rounds
            The last complete round: models after that one are of no use.

        Raises
        ------
        FednnUNetError
            If there is none.
        """
        for number in reversed([number for number in self.models() if number <= rounds]):
            try:
                return number, self._read(number)
            except FednnUNetError as error:
                logger.warning("Using the previous model: %s", error)
        raise FednnUNetError(
            f"{self.path} has no readable global model: start over in another --run_dir. The nodes' "
            "checkpoints are unchanged, and one can start a new training with -pretrained_weights."
        )

    def last_complete(self) -> int:
        """Return the last round that is known to be complete: by the history or, where that is lost, by the models.

        A model is kept when the round before is complete, and its own is about to be.
        """
        history, models = self.history(), self.models()
        by_history, by_models = history[-1].round if history else 0, max(models[-1] - 1, 0) if models else 0
        if by_models > by_history:
            logger.warning(
                "%s lacks rounds %d to %d, but their models exist: continuing from these.",
                self.path / HISTORY,
                by_history + 1,
                by_models,
            )
        return max(by_history, by_models)

    def history(self) -> list[RoundRecord]:
        """Return the complete rounds; a line that cannot be read, as one that was being written, is left out."""
        records: list[RoundRecord] = []
        path = self.path / HISTORY
        if not path.is_file():
            return records
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                record = RoundRecord.from_json(line) if line else None
            except FednnUNetError as error:
                logger.warning("A line of %s is damaged: %s", path, error)
                continue
            if record is not None and (not records or record.round > records[-1].round):
                records.append(record)
        return records

    @when_files_can_be_opened
    def forget_after(self, rounds: int) -> None:
        """Forget later rounds than this one, and their models."""
        self._keep_history([record for record in self.history() if record.round <= rounds])
        self._remove([number for number in self.models() if number > rounds])

    def roll_back(self, round_number: int) -> Path:
        """Return to an earlier round; move later ones into a subfolder, which is returned.

        Raises
        ------
        FednnUNetError
            If no model that can be read was kept of that round.
        """
        description = self.description()
        kept = [number for number in self.models() if number]
        if description is None or round_number not in kept:
            raise FednnUNetError(
                f"{self.path} has no model of round {round_number}, but of {', '.join(map(str, kept)) or 'none'}: "
                "choose one of these with --to."
            )
        self._read(round_number)
        aside = self.path / f"rolled_back_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
        with _told():
            aside.mkdir()
            for name in (DESCRIPTION, HISTORY):
                if (self.path / name).is_file():
                    shutil.copy2(self.path / name, aside / name)
        # a later round that is not in the history any more is one that was not completed, whenever this stops
        self._keep_history([record for record in self.history() if record.round <= round_number])
        self.describe(description.model_copy(update={"finished": False}))
        with _told():
            for number in kept:
                if number > round_number:
                    self._model(number).rename(aside / self._model(number).name)
        return aside

    @when_files_can_be_opened
    def append(self, record: RoundRecord) -> None:
        """Add a complete round to the history."""
        with _told(), (self.path / HISTORY).open("a", encoding="utf-8") as file:
            file.write(record.to_json() + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _keep_history(self, records: Sequence[RoundRecord]) -> None:
        with _told(), replacing(self.path / HISTORY) as temporary:
            temporary.write_text("".join(record.to_json() + "\n" for record in records), encoding="utf-8")

    def _read(self, round_number: int) -> dict[str, np.ndarray]:
        """Return a model that was kept.

        Raises
        ------
        FednnUNetError
            If it cannot be read.
        """
        path = self._model(round_number)
        try:
            with np.load(path, allow_pickle=False) as file:
                if file.zip.testzip() is not None:
                    raise zipfile.BadZipFile("a checksum is wrong")
                return {name: file[name] for name in file.files}
        except Exception as error:  # numpy and zipfile raise whatever a damaged byte makes them stumble over
            raise FednnUNetError(f"{path} is damaged ({error}): choose another one.") from error

    def _remove(self, models: Sequence[int]) -> None:
        with _told():
            for number in models:
                self._model(number).unlink(missing_ok=True)

    def models(self) -> list[int]:
        """Return the rounds after which a model was kept, oldest first."""
        return sorted(int(path.stem.split("_")[1]) for path in self.path.glob("model_*.npz"))

    def _model(self, round_number: int) -> Path:
        return self.path / f"model_{round_number:06d}.npz"


def _is_sparse(number: int, newest: int) -> bool:
    """Return whether an older model is one of the few that stay: the sparser, the older they are.

    A multiple of a power of 4 stays until it is twice that many rounds old: of 1000 rounds, nine or fewer do.
    """
    step = 1
    while number and number % (4 * step) == 0:
        step *= 4
    return number > 0 and newest - number <= 2 * step
