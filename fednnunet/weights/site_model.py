"""A site's copy of the shared weights: the global model, its own update, and the conversion between them."""

import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from fednnunet.errors import FednnUNetError
from fednnunet.weights.encoding import ENCODINGS, Encoding, Sender, check_finite, encoding_of, receive, rounding
from fednnunet.weights.fixed_point import FixedPoint
from fednnunet.weights.layout import Layout
from fednnunet.weights.norms import FAR, squared_norm


class SiteModel:
    """The shared tensors of a site, group after group in one flat buffer.

    Sending and taking parts changes nothing that they depend on until `accept`, so an exchange that was interrupted can
    be begun again and gives the same bytes.

    Parameters
    ----------
    site
        Name of the site, from which rounding is derived.
    groups
        Layout of each group that the site belongs to.
    encoding
        How updates go up, and the global model comes down; see `encoding_of`.
    """

    def __init__(self, site: str, groups: Sequence[Layout], encoding: Encoding) -> None:
        self.layout = Layout(tuple(tensor for group in groups for tensor in group.tensors))
        self.weights = np.zeros(self.layout.size, np.float32)
        """The last global model that has been accepted: shape ``(n,)``, float32."""
        self._update = self.weights
        self._arriving = self.weights.copy()
        self.cut_off = 0
        """Numbers of the update that were beyond the range of a sum, and for which nothing makes good."""
        self.groups = list(groups)
        """Layout of each group."""
        self._encodings = [encoding_of(group, encoding) for group in groups]
        self._seed = zlib.crc32(site.encode())
        self._sizes = [group.size for group in groups]
        self._senders = [Sender(encoding, size) for encoding, size in zip(self._encodings, self._sizes, strict=True)]
        self._errors = [None if sender.error is None else sender.error.copy() for sender in self._senders]

    @property
    def rounding_error(self) -> np.ndarray | None:
        """The accumulated rounding error of all updates, for the next one; none for exact encodings.

        Float32 of shape ``(n,)``, over the groups that are rounded.
        """
        errors = [sender.error for sender in self._senders if sender.error is not None]
        return np.concatenate(errors) if errors else None

    def restore_rounding_error(self, error: np.ndarray) -> None:
        """Continue from a stored `rounding_error`.

        Raises
        ------
        FednnUNetError
            If it belongs to another model.
        """
        own = [sender.error for sender in self._senders if sender.error is not None]
        if not own or error.shape != (sum(map(len, own)),):
            raise FednnUNetError("the saved rounding errors belong to another model")
        for part, kept in zip(own, np.split(error, np.cumsum([len(part) for part in own])[:-1]), strict=True):
            part[:] = kept

    def hold(self, update: np.ndarray) -> None:
        """Keep an update, float32 of the size of the layout, until all of it has been fetched."""
        self._update = update
        self.cut_off = 0

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
        data, _ = self._senders[group].encode(
            slice(start, stop), self._update[part], self.weights[part], random, self._errors[group]
        )
        return data

    def known(self, group: int) -> np.ndarray:
        """Return the last global model of a group: shape ``(n,)``, float32."""
        return self.weights[self._part(group, 0, self._sizes[group])]

    def quantize(
        self, group: int, start: int, stop: int, round_number: int, fixed: FixedPoint, weight: int
    ) -> np.ndarray:
        """Return a part of the update as integers, of which sums can be made; see `FixedPoint.encode`.

        Parameters
        ----------
        group, start, stop
            The part.
        round_number
            The round.
        fixed
            How to write them.
        weight
            Of the site.

        Raises
        ------
        FednnUNetError
            If there is no such part.
        """
        part, error, kept = self._part(group, start, stop), self._errors[group], self._senders[group].error
        wanted = self._update[part] - self.weights[part]
        if error is None or kept is None:
            values = fixed.encode(start, wanted, weight, None)[0]
            self.cut_off += fixed.cut_off(values, weight)
            return values
        wanted += kept[start:stop]
        values, sent = fixed.encode(start, wanted, weight, rounding(round_number, self._seed, group, start))
        np.subtract(wanted, sent, out=error[start:stop])
        return values

    def changes(self) -> Iterator[tuple[bool, float, int]]:
        """Yield of each group whether it is of the optimizer, the squared L2 norm of its update, and its elements.

        Raises
        ------
        FednnUNetError
            If the update is not finite, or far beyond the last model.
        """
        start = 0
        for group in self.groups:
            part = slice(start, start := start + group.size)
            check_finite(self._update[part])
            if _largest(self._update[part]) > FAR * max(1.0, _largest(self.weights[part])):
                raise FednnUNetError(f"its weights are more than {FAR:g} times the largest of the model")
            yield group.is_of_optimizer, squared_norm(self._update[part], self.weights[part]), group.size

    def take(self, group: int, start: int, stop: int, round_number: int, data: bytes) -> None:
        """Take a part of the next global model; in round 0 it comes as it is.

        Raises
        ------
        FednnUNetError
            If there is no such part, or `data` is not one.
        """
        part = self._part(group, start, stop)
        encoding = ENCODINGS["float32"] if round_number == 0 else self._encodings[group]
        self._arriving[part] = receive(encoding, data, self.weights[part])

    def accept(self) -> None:
        """Make the model that has arrived the global one."""
        self.weights[:] = self._arriving
        for sender, error in zip(self._senders, self._errors, strict=True):
            if sender.error is not None and error is not None:
                sender.error[:] = error

    def _part(self, group: int, start: int, stop: int) -> slice:
        if not (0 <= group < len(self._sizes) and 0 <= start < stop <= self._sizes[group]):
            raise FednnUNetError(f"the coordinator names a part {start}:{stop} of group {group}, which does not exist")
        offset = sum(self._sizes[:group])
        return slice(offset + start, offset + stop)


def _largest(values: np.ndarray) -> float:
    return float(max(values.max(initial=0.0), -values.min(initial=0.0)))
