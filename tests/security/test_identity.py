"""Keys, the list of sites, and proofs."""

import hashlib
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from fednnunet.errors import FednnUNetError
from fednnunet.protocol.conversation import NO_CERTIFICATE
from fednnunet.security.identity import Challenge, SiteList, create_key, entry, read_key, read_sites

RUN = "ab" * 16
CERTIFICATE = hashlib.sha256(b"a certificate").digest()


def _site(folder: Path, name: str = "Clinic A") -> tuple[Path, SiteList]:
    private, _, listed = create_key(name, folder)
    return private, SiteList([listed])


def test_a_proof_holds_for_what_it_was_made_for(tmp_path: Path) -> None:
    private, sites = _site(tmp_path)
    challenge = Challenge.draw(RUN)
    proof = read_key(private).prove(challenge, CERTIFICATE, '{"site": "Clinic A"}')
    sites.check("Clinic A", proof, challenge, CERTIFICATE, '{"site": "Clinic A"}')


def test_a_proof_does_not_hold_for_anything_else(tmp_path: Path) -> None:
    private, sites = _site(tmp_path)
    challenge = Challenge.draw(RUN)
    proof = read_key(private).prove(challenge, CERTIFICATE, "hello")
    others = [
        (proof, Challenge.draw(RUN), CERTIFICATE, "hello"),  # replayed
        (proof, challenge.model_copy(update={"run": "cd" * 16}), CERTIFICATE, "hello"),
        (proof, challenge, NO_CERTIFICATE, "hello"),
        (proof, challenge, CERTIFICATE, "hello, I have other labels"),
        (proof[:-1] + bytes([proof[-1] ^ 1]), challenge, CERTIFICATE, "hello"),
        (proof[:-1], challenge, CERTIFICATE, "hello"),
        (proof * 100, challenge, CERTIFICATE, "hello"),
    ]
    for other in others:
        with pytest.raises(FednnUNetError, match=r"Authentication of site .* failed"):
            sites.check("Clinic A", *other)


def test_the_key_of_another_site_proves_nothing(tmp_path: Path) -> None:
    _, sites = _site(tmp_path / "a")
    impostor, _ = _site(tmp_path / "b")
    challenge = Challenge.draw(RUN)
    with pytest.raises(FednnUNetError, match="key is not the one on the coordinator's list"):
        sites.check("Clinic A", read_key(impostor).prove(challenge, CERTIFICATE, ""), challenge, CERTIFICATE, "")
    with pytest.raises(FednnUNetError, match="Clinic B is not on the coordinator's list"):
        sites.check("Clinic B", b"", challenge, CERTIFICATE, "")
    with pytest.raises(FednnUNetError, match="start its node with --key"):
        sites.check("Clinic A", b"", challenge, CERTIFICATE, "")


def test_what_is_signed_is_as_documented(tmp_path: Path) -> None:
    private, _, _ = create_key("A", tmp_path)
    challenge = Challenge.draw(RUN)
    message = (
        b"FednnU-Net proof of a site, version 1"
        + bytes.fromhex(challenge.run)
        + bytes.fromhex(challenge.nonce)
        + CERTIFICATE
        + hashlib.sha256(b"introduction").digest()
    )
    key = load_pem_private_key(private.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    assert read_key(private).prove(challenge, CERTIFICATE, "introduction") == key.sign(message)


def test_challenges_differ() -> None:
    assert len({Challenge.draw(RUN).nonce for _ in range(100)}) == 100


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_only_its_owner_can_read_a_private_key_and_a_readable_one_is_refused(tmp_path: Path) -> None:
    private, _, _ = create_key("A", tmp_path / "a folder with spaces")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    private.chmod(0o640)
    with pytest.raises(FednnUNetError, match="chmod 600"):
        read_key(private)


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    private, _, _ = create_key("A", tmp_path)
    before = private.read_bytes()
    with pytest.raises(FednnUNetError, match="already exists"):
        create_key("A", tmp_path)
    assert private.read_bytes() == before


@pytest.mark.parametrize("name", ["", "../A", "a/b", "A\nB", ".hidden", "x" * 1000])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FednnUNetError, match="is not a valid site name"):
        create_key(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_files_that_hold_no_such_key_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(FednnUNetError, match="cannot be read"):
        read_key(path)
    path.write_text("nothing")
    path.chmod(0o600)
    with pytest.raises(FednnUNetError, match="is not a private key"):
        read_key(path)
    other = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(FednnUNetError, match="not an Ed25519 key"):
        read_key(path)


def test_what_is_printed_for_a_site_can_be_put_into_the_list(tmp_path: Path) -> None:
    listed = [create_key(name, tmp_path)[2] for name in ("Clinic A", "Uniklinik Köln")]
    path = tmp_path / "sites.toml"
    path.write_text("# who takes part\n" + "\n".join(map(entry, listed)) + 'display_name = "Cologne"\n', "utf-8")
    sites = read_sites(path)
    assert sites.names == ["Clinic A", "Uniklinik Köln"]
    assert sites.display_name("Uniklinik Köln") == "Cologne"
    assert sites.display_name("Clinic A") == "Clinic A"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "is empty"),
        ("[[site]]\nname = 3\npublic_key = ''", r"wrong at site\.0\.name"),
        ("[[site]]\nname = 'A'\npublic_key = 'AAAA'", "public key of site A is invalid"),
        ("[[site]]\nname = 'A'\nkey = 'AAAA'", "wrong at"),
        ("[[sites]]\nname = 'A'\npublic_key = 'AAAA'", "is empty"),
        ("[[site]", "is not valid TOML"),
    ],
)
def test_a_list_with_a_mistake_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "sites.toml"
    path.write_text(content)
    with pytest.raises(FednnUNetError, match=complaint):
        read_sites(path)


def test_a_site_or_a_key_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    listed = create_key("A", tmp_path)[2]
    for again in (listed, listed.model_copy(update={"name": "B"})):
        with pytest.raises(FednnUNetError, match="twice"):
            SiteList([listed, again])
