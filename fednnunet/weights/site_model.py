"""A site's copy of the weights that it shares: the global model, its own update, and the way from one to the other."""

import zlib
from collections.abc import Sequence

import numpy as np

from fednnunet.errors import FednnUNetError
from fednnunet.weights.encoding import ENCODINGS, Encoding, Sender, receive, rounding
from fednnunet.weights.layout import Layout


class SiteModel:
    """The shared tensors of a site, group after group in one flat buffer.

    Parameters
    ----------
    site
        Name of the site, from which rounding is derived.
    groups
        Layout of each group that the site belongs to.
    encoding
        How updates go up, and the global model comes down.
    """

    def __init__(self, site: str, groups: Sequence[Layout], encoding: Encoding) -> None:
        self.layout = Layout(tuple(tensor for group in groups for tensor in group.tensors))
        self.weights = np.zeros(self.layout.size, np.float32)
        """The global model, as far as it has arrived: shape ``(n,)``, float32."""
        self._update = self.weights
        self._encoding = encoding
        self._seed = zlib.crc32(site.encode())
        self._sender = Sender(encoding, self.layout.size)
        self._sizes = [group.size for group in groups]

    def hold(self, update: np.ndarray) -> None:
        """Keep an update, float32 of the size of the layout, until all of it has been fetched."""
        self._update = update

    def send(self, group: int, start: int, stop: int, round_number: int) -> bytes:
        """Return a part of the update; round 0, before which nothing is known, sends it as it is.

        Raises
        ------
        FednnUNetError
            If there is no such part.
        """
        part = self._part(group, start, stop)
        if round_number == 0:
            return ENCODINGS["float32"].encode(self._update[part], rounding(0))[0]
        random = rounding(round_number, self._seed, group, start)
        data, _ = self._sender.encode(part, self._update[part], self.weights[part], random)
        return data

    def take(self, group: int, start: int, stop: int, round_number: int, data: bytes) -> None:
        """Take a part of the global model.

        Raises
        ------
        FednnUNetError
            If there is no such part, or `data` is not one.
        """
        part = self._part(group, start, stop)
        encoding = ENCODINGS["float32"] if round_number == 0 else self._encoding
        self.weights[part] = receive(encoding, data, self.weights[part])

    def _part(self, group: int, start: int, stop: int) -> slice:
        if not (0 <= group < len(self._sizes) and 0 <= start < stop <= self._sizes[group]):
            raise FednnUNetError(f"the coordinator names a part {start}:{stop} of group {group} that there is not")
        offset = sum(self._sizes[:group])
        return slice(offset + start, offset + stop)
