"""Identities of sites: key pairs, the list of sites, and the proof with which a node authenticates.

The coordinator sends a fresh challenge to every connection. The node answers with an Ed25519 signature (RFC 8032) over
the challenge, the certificate that the coordinator presented, and the complete introduction. A proof is therefore
useless a second time, at another coordinator, or with another introduction.
"""

import base64
import binascii
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from pydantic import Field, TypeAdapter, ValidationError

from fednnunet.errors import FednnUNetError
from fednnunet.schema import Message, Name, WireMessage
from fednnunet.toml_file import read_toml

_CONTEXT = b"FednnU-Net proof of a site, version 1"
_PRIVATE_MODE = 0o600


class Challenge(WireMessage):
    """The coordinator's first message, which every node must sign."""

    run: str = Field(pattern=r"^[0-9a-f]{32}$", description="drawn at random when the coordinator starts")
    nonce: str = Field(pattern=r"^[0-9a-f]{64}$", description="drawn at random for this connection")

    @classmethod
    def draw(cls, run: str) -> "Challenge":
        """Return a fresh random challenge."""
        return cls(run=run, nonce=secrets.token_hex(32))


class ListedSite(Message):
    """One site of the coordinator's list."""

    name: Name
    public_key: str = Field(description="32 bytes in base64, as `fednnunet keys create` prints them")
    display_name: Name | None = Field(default=None, description="what people call the site")


@dataclass(frozen=True)
class Identity:
    """A site's own key.

    Attributes
    ----------
    key
        Its private key, which never leaves the site.
    """

    key: Ed25519PrivateKey

    def prove(self, challenge: Challenge, certificate: bytes, introduction: str) -> bytes:
        """Return the proof that goes with an introduction: 64 bytes.

        Parameters
        ----------
        challenge
            What the coordinator has sent over this connection.
        certificate
            SHA-256 of the certificate (DER) that it has shown, or `NO_CERTIFICATE`.
        introduction
            The introduction, as it is sent.
        """
        return self.key.sign(_signed(challenge, certificate, introduction))


class SiteList:
    """The sites that may take part.

    Parameters
    ----------
    sites
        Each of them.

    Raises
    ------
    FednnUNetError
        If a name or a key is there twice, or a key is none.
    """

    def __init__(self, sites: Sequence[ListedSite]) -> None:
        self._sites = {site.name: site for site in sites}
        self._keys = {site.name: _public_key(site) for site in sites}
        if len(self._sites) < len(sites) or len({site.public_key for site in sites}) < len(sites):
            raise FednnUNetError("The list of sites contains a site name or public key twice: give each site its own.")

    @property
    def names(self) -> list[str]:
        """Their names."""
        return sorted(self._sites)

    @property
    def digest(self) -> str:
        """128 bits of the SHA-256 of all names and keys, in eight groups that two people can read to each other."""
        keys = {name: key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex() for name, key in self._keys.items()}
        text = json.dumps(keys, sort_keys=True, separators=(",", ":"))
        digits = hashlib.sha256(text.encode()).hexdigest()
        return " ".join(digits[start : start + 4] for start in range(0, 32, 4))

    def verify(self, name: str, signature: bytes, message: bytes) -> None:
        """Make sure that a listed site has signed a message.

        Raises
        ------
        FednnUNetError
            If the site is not listed, or has not.
        """
        if name not in self._keys:
            raise FednnUNetError(f"site {name} is not on the list of sites (--sites)")
        try:
            self._keys[name].verify(signature, message)
        except InvalidSignature:
            raise FednnUNetError(
                f"the signature of site {name} is not by the key on the list of sites (--sites)"
            ) from None

    def lists(self, name: str, identity: Identity) -> bool:
        """Return whether a site is listed with the public key of this identity."""
        return name in self._keys and self._keys[name] == identity.key.public_key()

    def display_name(self, name: str) -> str:
        """Return the display name of a site."""
        site = self._sites.get(name)
        return name if site is None or site.display_name is None else site.display_name

    def check(self, name: str, proof: bytes, challenge: Challenge, certificate: bytes, introduction: str) -> None:
        """Make sure that an introduction comes from the site that it names; the rest as in `Identity.prove`.

        Raises
        ------
        FednnUNetError
            If the site is not listed, or the proof is not one.
        """
        if name not in self._keys:
            raise FednnUNetError(f"Site {name} is not on the coordinator's list of sites: have its public key added.")
        if not proof:
            raise FednnUNetError(f"Site {name} did not authenticate: start its node with --key.")
        try:
            self._keys[name].verify(proof, _signed(challenge, certificate, introduction))
        except InvalidSignature:
            raise FednnUNetError(
                f"Authentication of site {name} failed: its key is not the one on the coordinator's list, "
                "or the proof was made for another connection."
            ) from None


def listed_site(name: str, identity: Identity) -> ListedSite:
    """Return the entry of a site in the list of sites."""
    return ListedSite(name=name, public_key=_in_base64(identity.key.public_key()))


def create_key(site: str, folder: Path) -> tuple[Path, Path, ListedSite]:
    """Make a key pair for a site: ``SITE.key``, which only its owner can read, and ``SITE.pub``.

    Returns
    -------
    Both paths, and the entry for the coordinator's list.

    Raises
    ------
    FednnUNetError
        If there is a key already, the name cannot be one, or the folder cannot be written.
    """
    try:
        TypeAdapter(Name).validate_python(site)
    except ValidationError as error:
        raise FednnUNetError(f"'{site}' is not a valid site name: {error.errors()[0]['msg']}.") from None
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{site}.key", folder / f"{site}.pub"
    listed = listed_site(site, Identity(key))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_MODE)
        with open(descriptor, "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public.write_text(entry(listed), encoding="utf-8")
    except FileExistsError as error:
        raise FednnUNetError(f"{error.filename} already exists: remove it, or choose another folder.") from error
    except OSError as error:
        raise FednnUNetError(f"{error.filename} is not writable ({error.strerror}): choose another folder.") from error
    return private, public, listed


def read_key(path: Path) -> Identity:
    """Read a site's private key.

    Raises
    ------
    FednnUNetError
        If it is not there, no Ed25519 key, or others can read it.
    """
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise FednnUNetError(f"The key {path} cannot be read ({error.strerror}): correct --key.") from error
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise FednnUNetError(f"Other users can read the key {path}: run chmod 600 on it.")
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        raise FednnUNetError(f"{path} is not a private key: correct --key.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise FednnUNetError(f"{path} is not an Ed25519 key: make one with 'fednnunet keys create'.")
    return Identity(key)


def read_sites(path: Path) -> SiteList:
    """Read the coordinator's list of sites: TOML, one ``[[site]]`` for each, with the fields of `ListedSite`.

    Raises
    ------
    FednnUNetError
        If it cannot be read, or something in it is wrong.
    """
    sites = read_toml(path, TypeAdapter(dict[str, list[ListedSite]]), "list of sites", "--sites")
    if set(sites) != {"site"} or not sites["site"]:
        raise FednnUNetError(f"The list of sites {path} is empty: add a [[site]] for each.")
    return SiteList(sites["site"])


def entry(site: ListedSite) -> str:
    """Return the entry for `site` in the list of sites."""
    lines: Mapping[str, str | None] = site.model_dump()
    return "[[site]]\n" + "".join(f'{name} = "{value}"\n' for name, value in lines.items() if value is not None)


def _signed(challenge: Challenge, certificate: bytes, introduction: str) -> bytes:
    """Return the signed bytes; all parts but the first have a fixed length, so they are unambiguous."""
    digests = [bytes.fromhex(challenge.run), bytes.fromhex(challenge.nonce), certificate]
    return b"".join([_CONTEXT, *digests, hashlib.sha256(introduction.encode()).digest()])


def _in_base64(key: Ed25519PublicKey) -> str:
    return base64.b64encode(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def _public_key(site: ListedSite) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(site.public_key, validate=True))
    except (ValueError, binascii.Error) as error:
        raise FednnUNetError(
            f"The public key of site {site.name} is invalid: copy it from the output of 'fednnunet keys create'."
        ) from error
