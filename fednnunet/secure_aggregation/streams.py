"""Streams of pseudorandom bytes, the masks: AES-256 in counter mode, with random access."""

import hashlib

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

VALUES, TRAILER = 0, 1
"""What a stream masks: their bytes never overlap."""

KEY_BYTES = 32


def stream(key: bytes, domain: int, start: int, length: int) -> bytes:
    """Return pseudorandom bytes.

    Parameters
    ----------
    key
        32 bytes.
    domain
        `VALUES` or `TRAILER`.
    start
        The first element of the part of a model: streams of different parts have nothing in common.
    length
        Number of bytes, below 2**36.
    """
    counter = domain.to_bytes(4, "big") + start.to_bytes(8, "big") + bytes(4)
    return Cipher(AES256(key), CTR(counter)).encryptor().update(bytes(length))


def masking(values: np.ndarray, key: bytes, domain: int, start: int) -> np.ndarray:
    """Return the stream as numbers of the dtype and shape of `values`, which are unsigned integers."""
    return np.frombuffer(stream(key, domain, start, values.nbytes), values.dtype.newbyteorder("<"))


def key_of_question(pair_key: bytes, number: int, question: str) -> bytes:
    """Return the key for one question about cases: 32 bytes, another one for any other question.

    Parameters
    ----------
    pair_key
        Of two sites.
    number
        Of the question, from 1.
    question
        The question, as it was sent.
    """
    about = number.to_bytes(8, "big") + question.encode(errors="replace")
    return HKDFExpand(SHA256(), KEY_BYTES, b"FednnU-Net question\0" + hashlib.sha256(about).digest()).derive(pair_key)
