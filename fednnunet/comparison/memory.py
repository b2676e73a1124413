"""Records the finished commands of a comparison, so that it can be interrupted and resumed."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from fednnunet.errors import FednnUNetError
from fednnunet.files import replacing
from fednnunet.schema import Message

STATE = "state.json"


class JobRecord(Message):
    """One command of the comparison."""

    command: str = Field(description="digest of its words")
    seconds: float = Field(default=0.0, description="that it took, all attempts together")
    done: bool = False


class _State(Message):
    settings: dict[str, Any]
    jobs: dict[str, JobRecord] = Field(default_factory=dict)


class Memory:
    """Which commands of a comparison are done.

    Parameters
    ----------
    folder
        The comparison's folder.
    """

    def __init__(self, folder: Path, state: _State) -> None:
        self._path = folder / STATE
        self._state = state

    @classmethod
    def open(cls, folder: Path, settings: dict[str, Any], *, overwrite: bool) -> Self:
        """Return the memory of the comparison in `folder`, which is made if it is not there.

        Parameters
        ----------
        folder
            The comparison's folder.
        settings
            What cannot change when it is continued: flags and data, as JSON.
        overwrite
            Whether to remove what was done, and begin anew.

        Raises
        ------
        FednnUNetError
            If the folder holds something else, or a comparison with other settings.
        """
        path = folder / STATE
        try:
            if not path.is_file():
                if folder.is_dir() and any(folder.iterdir()):
                    raise FednnUNetError(f"{folder} is not empty and contains no comparison: choose another --out.")
            elif overwrite:
                for entry in folder.iterdir():  # the state goes last: without it, the rest would not be known as ours
                    if entry != path:
                        _remove(entry)
                path.unlink()
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FednnUNetError(f"{error.filename} is not usable ({error.strerror}): choose another --out.") from error
        if not path.is_file():
            memory = cls(folder, _State(settings=settings))
            memory._keep()
            return memory
        try:
            state = _State.from_json(path.read_text(encoding="utf-8"))
        except (FednnUNetError, OSError, UnicodeDecodeError) as error:
            raise FednnUNetError(f"{path} cannot be read ({error}): start over with --overwrite.") from error
        for name, before in state.settings.items():
            if settings.get(name) != before:
                raise FednnUNetError(
                    f"The comparison in {folder} was started with {name} {_shown(before)}, not "
                    f"{_shown(settings.get(name))}: give the same flags, another --out, or --overwrite to start over."
                )
        return cls(folder, state)

    @property
    def jobs(self) -> dict[str, JobRecord]:
        """What is known of each command, by name."""
        return self._state.jobs

    def is_done(self, name: str, words: Sequence[str]) -> bool:
        """Return whether the command of that name has been done, with these words."""
        record = self.jobs.get(name)
        return record is not None and record.done and record.command == digest(words)

    def add(self, name: str, words: Sequence[str], seconds: float, *, done: bool) -> None:
        """Remember that a command has run for so long, and whether it is done."""
        before = self.jobs.get(name)
        command = digest(words)
        if before is not None and before.command == command and not before.done:
            seconds += before.seconds
        self.jobs[name] = JobRecord(command=command, seconds=seconds, done=done)
        self._keep()

    def _keep(self) -> None:
        with replacing(self._path) as temporary:
            temporary.write_text(self._state.to_json(), encoding="utf-8")


def digest(content: Any) -> str:
    """Return a digest of what JSON can hold."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()
