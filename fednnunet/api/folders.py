"""nnU-Net's folders, set for this process."""

import os
import sys
from pathlib import Path

from fednnunet.errors import FednnUNetError

_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def use_folders(root: Path | str) -> Path:
    """Keep nnU-Net's raw data, preprocessed data and results in folders below one, for this program and its runs.

    It sets nnU-Net's environment variables; who has set them need not call it.

    Parameters
    ----------
    root
        Gets the folders ``nnUNet_raw``, ``nnUNet_preprocessed`` and ``nnUNet_results``.

    Returns
    -------
    The folder, absolute.

    Raises
    ------
    FednnUNetError
        If a folder cannot be made, or this program has imported nnU-Net, which reads the variables only then.

    Examples
    --------
    >>> import fednnunet as fed
    >>> root = fed.use_folders("federation")
    >>> sorted(folder.name for folder in root.iterdir())
    ['nnUNet_preprocessed', 'nnUNet_raw', 'nnUNet_results']
    """
    folder = Path(root).absolute()
    wanted = {name: str(folder / name) for name in _FOLDERS}
    known = sys.modules.get("nnunetv2.paths")
    if known is not None and any(getattr(known, name, path) != path for name, path in wanted.items()):
        raise FednnUNetError("nnU-Net is imported already, and has other folders: call use_folders before.")
    try:
        for path in wanted.values():
            os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise FednnUNetError(f"{error.filename} cannot be created ({error.strerror}): choose another one.") from error
    os.environ.update(wanted)
    return folder
