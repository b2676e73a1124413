"""One attempt at a sum: a set of sites, one-time keys that they have signed, and the masks that these make."""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fednnunet.errors import FednnUNetError
from fednnunet.protocol.secure_aggregation import SignedKey, Statement
from fednnunet.secure_aggregation.integers import added
from fednnunet.secure_aggregation.streams import KEY_BYTES, TRAILER, VALUES, key_of_question, masking, stream
from fednnunet.security.identity import Identity, SiteList

_SIGNED = b"FednnU-Net one-time key, version 1"
_MASK = b"FednnU-Net pairwise mask, version 1"
FEWEST_SITES = 3
"""With two, each site knows the other's term."""

Context = Mapping[str, str | int | bool | Sequence[str] | None]
"""Everything that all sites of a sum must agree on."""

TRAILER_DTYPE = "<u8"
TRAILER_LENGTH = 3
"""Numbers behind each part of an update: 1, 1, and the site's weight."""


@dataclass(frozen=True)
class FigureRules:
    """Which losses and Dice a site tells, for sums only.

    Attributes
    ----------
    min_cases
        Cases behind a figure, at least.
    min_val_iterations
        Batches behind a figure of a round, at least.
    """

    min_cases: int = 1
    min_val_iterations: int = 1


@dataclass(frozen=True)
class Rules:
    """What a site wants of the sums in which it takes part.

    Attributes
    ----------
    sites
        The list of sites that the hospital has checked.
    min_sites
        Sites of a sum, at least.
    max_absent
        Sites of the list that may be missing from a sum; ``None`` for any number.
    max_repeats
        How often, in a training, an update may be summed among other sites when one of its round was opened before.
    figures
        Which figures are summed; ``None`` if they leave as they are.
    """

    sites: SiteList
    min_sites: int = FEWEST_SITES
    max_absent: int | None = None
    max_repeats: int = 1
    figures: FigureRules | None = None


def context_text(context: Context) -> str:
    """Return a context as canonical JSON."""
    return json.dumps(context, sort_keys=True, separators=(",", ":"))


def different_field(one: str, other: str) -> str:
    """Return the name of the first field in which two contexts differ."""
    first, second = _fields(one), _fields(other)
    return next((name for name in sorted({*first, *second}) if first.get(name) != second.get(name)), "its form")


def salt_of(keys: Sequence[SignedKey]) -> str:
    """Return the SHA-256 of all signed keys, which are in the order of their sites: 64 hexadecimal digits."""
    hashed = hashlib.sha256()
    for key in keys:
        name = key.site.encode()
        signed = b"".join(map(bytes.fromhex, (key.key, key.context, key.signature)))
        hashed.update(len(name).to_bytes(4, "big") + name + signed)
    return hashed.hexdigest()


def check_signature(key: SignedKey, sites: SiteList) -> None:
    """Make sure that a listed site has signed a one-time key.

    Raises
    ------
    FednnUNetError
        If it is not listed, or has not.
    """
    sites.verify(key.site, bytes.fromhex(key.signature), _signed(key.site, key.key, key.context))


class Attempt:
    """A site's part in one attempt.

    Parameters
    ----------
    identity
        The site's long-term key.
    site
        Its name.
    context
        What the site wants all to agree on, from what it knows itself.
    """

    def __init__(self, identity: Identity, site: str, context: Context) -> None:
        self._site = site
        self._private: X25519PrivateKey | None = X25519PrivateKey.generate()
        public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
        text = context_text(context)
        digest = hashlib.sha256(text.encode()).hexdigest()
        signature = identity.key.sign(_signed(site, public, digest)).hex()
        self.statement = Statement(
            signed=SignedKey(site=site, key=public, context=digest, signature=signature), context=text
        )
        self._opening = secrets.token_bytes(KEY_BYTES)
        self._pair_keys: list[tuple[int, bytes]] = []
        self.salt: str | None = None
        """SHA-256 of the keys with which it was joined."""
        self.sites: tuple[str, ...] = ()
        """The sites of the sum, once it was joined."""

    def is_among(self, keys: Sequence[SignedKey]) -> bool:
        """Return whether this attempt's own key is one of them."""
        return self.statement.signed in keys

    def join(self, keys: Sequence[SignedKey], rules: Rules) -> str:
        """Make the masks; once for one set of keys, and again with the same.

        Returns
        -------
        SHA-256 of all keys.

        Raises
        ------
        FednnUNetError
            If they are not in order, too few, or one is not that of a listed site for this sum, or another set was
            joined.
        """
        salt = salt_of(keys)
        if self.salt is not None:
            if salt != self.salt:
                raise FednnUNetError("the coordinator names other sites for a sum than it did before")
            return salt
        self._check(keys, rules)
        assert self._private is not None
        for key in keys:
            if key.site != self._site:
                self._pair_keys.append((1 if self._site < key.site else -1, self._pair_key(key, salt)))
        self._private = None  # nobody can make these masks again
        self.salt, self.sites = salt, tuple(key.site for key in keys)
        return salt

    def mask_answer(self, answer: bytes, widths: Sequence[int], number: int, question: str) -> bytes:
        """Return an answer about cases, masked: integers of these widths in bytes, see `added`.

        Parameters
        ----------
        answer, widths
            The answer.
        number, question
            Number of the question, from 1, and its text.
        """
        masks = [
            (sign, stream(key_of_question(key, number, question), VALUES, 0, len(answer))) for sign, key in self._joined
        ]
        return added([answer, *(mask for _, mask in masks)], widths, [1, *(sign for sign, _ in masks)])

    def mask_part(self, values: np.ndarray, start: int, weight: int) -> bytes:
        """Return a part of an update, masked, with its trailer.

        Parameters
        ----------
        values
            Unsigned integers, of one dimension: the update modulo the range of their dtype.
        start
            First element of the part.
        weight
            Of the site.
        """
        trailer = np.array([1, 1, weight], TRAILER_DTYPE)
        parts = []
        for domain, plain in ((VALUES, values.copy()), (TRAILER, trailer)):
            for sign, key in [*self._joined, (1, self._opening)]:
                (np.add if sign > 0 else np.subtract)(plain, masking(plain, key, domain, start), out=plain)
            parts.append(plain.astype(plain.dtype.newbyteorder("<"), copy=False).tobytes())
        return b"".join(parts)

    def opening(self, salt: str) -> bytes:
        """Return the key that opens the sum, with those of all other sites.

        Raises
        ------
        FednnUNetError
            If this sum was not joined.
        """
        if self.salt is None or salt != self.salt:
            raise FednnUNetError("the coordinator wants to open a sum in which this site takes no part")
        return self._opening

    @property
    def _joined(self) -> list[tuple[int, bytes]]:
        if self.salt is None:
            raise FednnUNetError("the coordinator asks for a term of a sum in which this site takes no part yet")
        return self._pair_keys

    def _check(self, keys: Sequence[SignedKey], rules: Rules) -> None:
        names = [key.site for key in keys]
        own = self.statement.signed
        if names != sorted(set(names)):
            raise FednnUNetError("the coordinator names a site of a sum twice, or not in order")
        if own not in keys:
            raise FednnUNetError("the coordinator wants a sum with another one-time key of this site than its own")
        if len(names) < rules.min_sites:
            raise FednnUNetError(
                f"the coordinator wants a sum over {len(names)} sites, the policy of this one demands {rules.min_sites}"
            )
        for key in keys:
            check_signature(key, rules.sites)
            if key.context != own.context:
                raise FednnUNetError(f"site {key.site} has agreed to another sum than this site: ask the coordinator")
        absent = sorted(set(rules.sites.names).difference(names))
        if rules.max_absent is not None and len(absent) > rules.max_absent:
            raise FednnUNetError(
                f"the coordinator wants a sum without {', '.join(absent)}, the policy of this site allows "
                f"{rules.max_absent} to be missing"
            )

    def _pair_key(self, other: SignedKey, salt: str) -> bytes:
        assert self._private is not None
        try:
            secret = self._private.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(other.key)))
        except ValueError:
            raise FednnUNetError(f"the one-time key of site {other.site} is none") from None
        names = "\0".join(sorted((self._site, other.site))).encode()
        return HKDF(SHA256(), KEY_BYTES, bytes.fromhex(salt), _MASK + b"\0" + names).derive(secret)


def _signed(site: str, key: str, context: str) -> bytes:
    name = site.encode()
    return b"".join([_SIGNED, len(name).to_bytes(4, "big"), name, bytes.fromhex(key), bytes.fromhex(context)])


def _fields(text: str) -> dict[str, object]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}
