"""Masked terms add up to the sum of the terms, and to nothing else."""

import hashlib
import struct

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fednnunet.errors import FednnUNetError
from fednnunet.secure_aggregation.attempts import Rules
from fednnunet.secure_aggregation.integers import added, from_bytes, to_bytes
from fednnunet.secure_aggregation.opened import MaskedSum, MasksDoNotCancelError
from fednnunet.secure_aggregation.streams import TRAILER, VALUES, stream
from fednnunet.weights.fixed_point import DTYPES, FixedPoint
from tests.secure_aggregation.sites import attempts, identities, joined, site_list

CONTEXT = {"purpose": "update", "round": 1}


@pytest.mark.parametrize("bits", DTYPES)
@pytest.mark.parametrize("sites", [2, 3, 8, 32])
def test_the_sum_of_masked_parts_is_exact_for_any_number_of_sites_and_modulus(bits: int, sites: int) -> None:
    rng = np.random.default_rng(bits + sites)
    of_sites = joined(identities([f"site {number:02d}" for number in range(sites)]), CONTEXT, min_sites=2)
    most = 2 ** (bits - 1) // sites - 1
    signed = [rng.integers(-most, most, 1000, dtype=f"i{bits // 8}", endpoint=True) for _ in of_sites]
    signed[0][:3] = [-most, most, 0]
    total = MaskedSum(1000, DTYPES[bits])
    for part in (slice(0, 700), slice(700, 1000)):
        masked = [
            attempt.mask_part(values[part].view(DTYPES[bits]), part.start, number)
            for number, (attempt, values) in enumerate(zip(of_sites.values(), signed, strict=True))
        ]
        assert not any(values[part].tobytes() in data for values, data in zip(signed, masked, strict=True))
        total.add(part, masked)
    keys = [attempt.opening(str(attempt.salt)) for attempt in of_sites.values()]
    for part in (slice(700, 1000), slice(0, 700)):
        opened, weight = total.opened(part, keys)
        np.testing.assert_array_equal(opened, np.sum([values[part] for values in signed], axis=0, dtype=opened.dtype))
        assert weight == sum(range(sites))


def test_a_sum_without_one_site_or_one_opening_key_is_noise_and_is_told_to_be() -> None:
    of_sites = joined(identities(), CONTEXT)
    terms = [attempt.mask_part(np.arange(50, dtype="<u4"), 0, 1) for attempt in of_sites.values()]
    keys = [attempt.opening(str(attempt.salt)) for attempt in of_sites.values()]
    others = joined(identities(), CONTEXT)
    for some, of_some in ((terms[:2], keys[:2]), (terms, [*keys[:2], bytes(32)]), (terms, keys[:2])):
        total = MaskedSum(50, "<u4")
        total.add(slice(0, 50), some)
        with pytest.raises(MasksDoNotCancelError):
            total.opened(slice(0, 50), of_some)
    total = MaskedSum(50, "<u4")
    total.add(slice(0, 50), [*terms[:2], others["C"].mask_part(np.arange(50, dtype="<u4"), 0, 1)])
    with pytest.raises(MasksDoNotCancelError):
        total.opened(slice(0, 50), keys)


def test_a_sum_that_is_gathered_again_without_a_site_tells_nothing_of_it() -> None:
    """Without fresh masks, and an opening that is told once, the difference of both sums would be its update."""
    keys, part = identities(["A", "B", "C", "D"]), slice(0, 1000)
    values = np.random.default_rng(3).integers(0, 2**16, (4, 1000), dtype="<u2")
    all_sites = joined(keys, CONTEXT)
    others = joined({name: keys[name] for name in "ABC"}, CONTEXT)
    sums = []
    for of_sites in (all_sites, others):
        masked = [attempt.mask_part(of_site, 0, 1) for attempt, of_site in zip(of_sites.values(), values, strict=False)]
        sums.append(MaskedSum(1000, "<u2"))
        sums[-1].add(part, masked)
        sums.append(MaskedSum(1000, "<u2"))  # to be opened, as a copy
        sums[-1].add(part, masked)
    unopened, of_all, _, of_others = sums
    without, _ = of_others.opened(part, [attempt.opening(str(attempt.salt)) for attempt in others.values()])
    np.testing.assert_array_equal(without.view("<u2"), values[:3].sum(axis=0, dtype="<u2"))
    told = unopened._values - without.view("<u2")
    assert np.count_nonzero(told == values[3]) < 5
    # with the opening keys of the first sum too, which an honest site tells once for an update
    both, _ = of_all.opened(part, [attempt.opening(str(attempt.salt)) for attempt in all_sites.values()])
    np.testing.assert_array_equal(both.view("<u2") - without.view("<u2"), values[3])


@pytest.mark.parametrize("bits", [16, 32])
def test_whatever_a_site_sends_no_number_of_the_mean_leaves_its_range(bits: int) -> None:
    of_sites = joined(identities(), CONTEXT)
    rng = np.random.default_rng(bits)
    fixed, dtype = FixedPoint(bits, np.array([-3], np.int8), 3), DTYPES[bits]
    honest, _ = fixed.encode(0, rng.normal(0, 0.01, 200).astype(np.float32), 1, None)
    evil = rng.integers(0, 2**bits, 200, dtype=dtype)
    total = MaskedSum(200, dtype)
    terms = [honest, honest, evil]
    total.add(
        slice(0, 200),
        [attempt.mask_part(values, 0, 1) for attempt, values in zip(of_sites.values(), terms, strict=True)],
    )
    opened, weight = total.opened(slice(0, 200), [attempt.opening(str(attempt.salt)) for attempt in of_sites.values()])
    mean = fixed.mean(0, opened, weight)
    assert np.abs(mean).max() <= 2.0**-3
    assert np.abs(mean).max() > 10 * 0.01  # but within it, nobody sees who has moved the model


def test_parts_of_one_attempt_never_share_a_mask_and_the_same_part_has_the_same_bytes() -> None:
    """Known numbers behind a part, masked with bytes that mask others elsewhere, would reveal these."""
    attempt = joined(identities(), CONTEXT)["A"]
    zeros = np.zeros(64, "<u2")
    whole = attempt.mask_part(zeros, 0, 0)
    assert whole == attempt.mask_part(zeros, 0, 0)
    short = attempt.mask_part(zeros[:16], 0, 0)
    assert short[:32] == whole[:32]
    assert short[32:] == whole[128:]  # the trailer's mask depends on the start of a part, not on its end
    assert attempt.mask_part(zeros, 64, 0)[:128] != whole[:128]
    seen = [stream(bytes(32), domain, start, 4096) for domain in (VALUES, TRAILER) for start in (0, 1, 2, 256, 1 << 40)]
    blocks = [data[at : at + 16] for data in seen for at in range(0, 4096, 16)]
    assert len(set(blocks)) == len(blocks)


def test_answers_about_cases_add_up_whatever_their_widths() -> None:
    widths = [8, 40, 80, 8]
    of_sites = joined(identities([f"site {number}" for number in range(5)]), CONTEXT)
    largest = ((1 << 24) - 1) << 253
    answers = [[number, -largest * number, largest**2 * number, 0] for number in range(5)]
    plain = [to_bytes(answer, widths) for answer in answers]
    masked = [
        attempt.mask_answer(answer, widths, 1, "a question")
        for attempt, answer in zip(of_sites.values(), plain, strict=True)
    ]
    assert from_bytes(added(masked, widths), widths) == [sum(column) for column in zip(*answers, strict=True)]
    other = [*masked[:4], of_sites["site 4"].mask_answer(plain[4], widths, 1, "another question")]
    assert from_bytes(added(other, widths), widths)[0] > 1 << 40 or from_bytes(added(other, widths), widths)[0] < 0
    with pytest.raises(FednnUNetError, match="bytes instead of"):
        added([masked[0], masked[1][1:]], widths)


def test_masks_are_those_of_the_protocol() -> None:
    """A second implementation, from the description of the protocol."""
    keys = identities()
    of_sites = attempts(keys, CONTEXT)
    secrets = {name: attempt._private for name, attempt in of_sites.items()}
    signed = [of_sites[name].statement.signed for name in sorted(of_sites)]
    salt = hashlib.sha256()
    for key in signed:
        salt.update(bytes([0, 0, 0, 1]) + key.site.encode() + bytes.fromhex(key.key + key.context + key.signature))
    for attempt in of_sites.values():
        attempt.join(signed, Rules(site_list(keys)))
    assert of_sites["B"].salt == salt.hexdigest()
    values = np.arange(100, dtype="<u4")
    expected, trailer = values.copy(), np.array([1, 1, 7], "<u8")
    for other, sign in (("A", -1), ("C", 1)):
        shared = secrets["B"].exchange(secrets[other].public_key())  # type: ignore[union-attr]
        names = "\0".join(sorted(["B", other])).encode()
        info = b"FednnU-Net pairwise mask, version 1\0" + names
        key_of_pair = HKDF(SHA256(), 32, salt.digest(), info).derive(shared)
        expected += np.uint32(sign % 2**32) * _stream(key_of_pair, 0, 1000, 400).view("<u4")
        trailer += np.uint64(sign % 2**64) * _stream(key_of_pair, 1, 1000, 24).view("<u8")
    opening = of_sites["B"].opening(salt.hexdigest())
    expected += _stream(opening, 0, 1000, 400).view("<u4")
    trailer += _stream(opening, 1, 1000, 24).view("<u8")
    assert of_sites["B"].mask_part(values, 1000, 7) == expected.tobytes() + trailer.tobytes()


def _stream(key: bytes, domain: int, start: int, length: int) -> np.ndarray:
    """AES-256 of counters, block by block."""
    encryptor = Cipher(AES256(key), ECB()).encryptor()
    counters = [struct.pack(">IQI", domain, start, block) for block in range(-(-length // 16))]
    return np.frombuffer(b"".join(map(encryptor.update, counters))[:length], np.uint8)


def test_a_part_of_another_length_is_no_term() -> None:
    total = MaskedSum(50, "<u4")
    with pytest.raises(FednnUNetError, match="has 223 bytes instead of 224"):
        total.add(slice(0, 50), [bytes(224), bytes(223)])
