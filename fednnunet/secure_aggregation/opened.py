"""The coordinator's sum of masked parts, which it can read once every site has told its opening key."""

from collections.abc import Sequence

import numpy as np

from fednnunet.errors import FednnUNetError
from fednnunet.secure_aggregation.attempts import TRAILER_DTYPE, TRAILER_LENGTH
from fednnunet.secure_aggregation.streams import TRAILER, VALUES, masking


class MasksDoNotCancelError(FednnUNetError):
    """A sum is noise: a site has masked it for other sites, or for another sum."""


class MaskedSum:
    """The sum of the masked updates of some sites, as far as they have arrived.

    Parameters
    ----------
    size
        Elements of the update.
    dtype
        Unsigned integer of its elements.
    """

    def __init__(self, size: int, dtype: str) -> None:
        self._values = np.zeros(size, dtype)
        self._trailers: dict[int, np.ndarray] = {}

    def bytes_of(self, part: slice) -> int:
        """Return the bytes of a masked part."""
        return int(part.stop - part.start) * self._values.itemsize + TRAILER_LENGTH * 8

    def add(self, part: slice, masked: Sequence[bytes]) -> None:
        """Add a part of all sites.

        Raises
        ------
        FednnUNetError
            If one has another length.
        """
        values = self._values[part]
        trailer = np.zeros(TRAILER_LENGTH, TRAILER_DTYPE)
        for data in masked:
            if len(data) != self.bytes_of(part):
                raise FednnUNetError(f"part of a masked update has {len(data)} bytes instead of {self.bytes_of(part)}")
            values += np.frombuffer(data, values.dtype.newbyteorder("<"), count=len(values))
            trailer += np.frombuffer(data, TRAILER_DTYPE, offset=values.nbytes)
        self._trailers[part.start] = trailer

    def opened(self, part: slice, keys: Sequence[bytes]) -> tuple[np.ndarray, int]:
        """Return a part of the sum, and the sum of the sites' weights.

        Parameters
        ----------
        part
            A part that was added.
        keys
            Opening keys of all sites, 32 bytes each.

        Returns
        -------
        Signed integers, shape ``(part.stop - part.start,)``, and the weight.

        Raises
        ------
        MasksDoNotCancelError
            If it is noise; the chance that this is not seen is 2**-128.
        """
        values, trailer = self._values[part], self._trailers[part.start]
        for key in keys:
            np.subtract(values, masking(values, key, VALUES, part.start), out=values)
            np.subtract(trailer, masking(trailer, key, TRAILER, part.start), out=trailer)
        ones, more_ones, weight = trailer.tolist()
        if not ones == more_ones == len(keys):
            raise MasksDoNotCancelError(
                "the sites' masks do not cancel: one of them was told something else than the others, or masks wrongly"
            )
        return values.view(values.dtype.str.replace("u", "i")), weight
