"""Writing files that nnU-Net, or the next task, reads."""

import os
from pathlib import Path
from typing import Any

from batchgenerators.utilities.file_and_folder_operations import save_json


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a JSON file so that a reader never sees half of it, and no half is left if the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        save_json(content, str(temporary), sort_keys=False)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
