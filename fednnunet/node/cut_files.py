"""Detects truncated NIfTI files, as after an interrupted copy."""

import gzip
import io
import math
import os
from typing import Any

from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

_HEADER = 540
_NIFTI2 = _HEADER.to_bytes(4, "little")


def is_cut(path: str) -> bool:
    """Return whether the end of a NIfTI file is missing; ITK does not report that and leaves the rest blank.

    The last four bytes of a ``.nii.gz`` tell the size of its content. If it is not the one that the header promises,
    as in files of several members, all is read.
    """
    is_packed = path.lower().endswith(".gz")
    if not path.lower().endswith((".nii", ".nii.gz")):
        return False
    try:
        with gzip.open(path) if is_packed else open(path, "rb") as file:
            beginning = file.read(_HEADER)
        kind: Any = Nifti2Header if _NIFTI2 in (beginning[:4], beginning[3::-1]) else Nifti1Header
        header = kind.from_fileobj(io.BytesIO(beginning), check=False)
        size: int = (
            int(header.get_data_offset()) + math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
        )
        if not is_packed:
            return os.path.getsize(path) < size
        with open(path, "rb") as packed:
            packed.seek(-4, os.SEEK_END)
            if int.from_bytes(packed.read(), "little") == size % 2**32:
                return False
        with gzip.open(path) as data:
            while data.read(1 << 20):
                pass
    except EOFError:
        return True
    except Exception:  # it is none; what it is, the reader knows
        return False
    return False
