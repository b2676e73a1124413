"""Logs each fold to a run of Weights & Biases, metrics only."""

import os
from collections.abc import Mapping
from typing import Literal

import wandb

from fednnunet.report.trackers.tracker import Opening

_ID = "wandb_run"
_INIT_SECONDS = 60.0
_FINISH_SECONDS = 30.0


class WandbRun:
    """A run of Weights & Biases.

    What wandb would gather by itself is switched off: output of the program, names of machine and user, load, code, git
    and packages. A training that is continued goes on in its run; wandb takes no round twice, so of one that comes
    again it keeps the first result, and the new one in its summary only.

    Parameters
    ----------
    opening
        What the run is for.
    project
        The project it belongs to.
    """

    def __init__(self, opening: Opening, project: str) -> None:
        kept = opening.kept(_ID)
        opening.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=project,
            mode=_mode(),
            id=kept,
            name=f"{opening.folder.name} fold {opening.fold}",
            group=opening.folder.name,
            dir=str(opening.folder),
            resume=None if kept is None else "allow",
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                host="coordinator",
                silent=True,
                disable_git=True,
                disable_code=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
                init_timeout=_INIT_SECONDS,
                finish_timeout=_FINISH_SECONDS,
            ),
        )
        opening.keep(_ID, self._run.id)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send numbers."""
        if step < self._run.step:
            self._run.summary.update(dict(metrics))
        else:
            self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def is_logged_in() -> bool:
    """Return whether wandb will find all that it needs without asking somebody at the terminal."""
    return _mode() is not None or bool(wandb.login(prompt=False))


def _mode() -> Literal["offline", "disabled"] | None:
    """Return what ``WANDB_MODE`` asks for, if that is not to send; wandb itself reads it only once in a process."""
    match os.environ.get("WANDB_MODE"):
        case "offline" | "dryrun":
            return "offline"
        case "disabled":
            return "disabled"
    return None
