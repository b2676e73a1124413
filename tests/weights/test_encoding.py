import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fednnunet.errors import FednnUNetError
from fednnunet.weights.encoding import BLOCK, ENCODINGS, Encoding, EncodingName, Sender, receive, rounding

EACH = pytest.mark.parametrize("name", ENCODINGS)
_numbers = hnp.arrays(np.float32, st.integers(1, 600), elements=st.floats(-1e4, 1e4, width=32))


@EACH
@given(_numbers, st.integers(0, 2**32 - 1))
@example(np.array([3.67e-43], np.float32), 0)
@example(np.array([1e-38, -2e-37, 1e-36], np.float32), 0)
def test_numbers_come_back_within_the_encodings_step(name: EncodingName, numbers: np.ndarray, seed: int) -> None:
    encoding = ENCODINGS[name]
    data, promised = encoding.encode(numbers, rounding(seed))
    assert len(data) == encoding.size(len(numbers))
    back = encoding.decode(data, len(numbers))
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, promised)
    for start in range(0, len(numbers), BLOCK):
        block, got = numbers[start : start + BLOCK], back[start : start + BLOCK]
        largest = float(np.abs(block).max())
        step = {"float32": 0.0, "float16": max(largest * 2**-11, 2**-25), "int8": 1.00001 * largest / 127}[name]
        assert np.abs(block.astype(np.float64) - got).max() <= step + 127 * np.finfo(np.float32).tiny


def test_int8_rounds_without_bias() -> None:
    numbers = np.random.default_rng(0).normal(size=2 * BLOCK).astype(np.float32)
    int8, repeats = ENCODINGS["int8"], 4000
    mean = np.mean([int8.encode(numbers, rounding(i))[1] for i in range(repeats)], axis=0)
    step = np.abs(numbers.reshape(2, BLOCK)).max(axis=1).repeat(BLOCK) / 127
    # the error of one rounding has a standard deviation of at most half a step
    assert (np.abs(mean - numbers) < 5 * step / 2 / np.sqrt(repeats)).all()


@EACH
@given(st.binary(max_size=3000), st.integers(1, 700))
def test_bytes_from_anywhere_are_decoded_or_refused(name: EncodingName, data: bytes, number: int) -> None:
    encoding = ENCODINGS[name]
    for candidate in (data, (data * (encoding.size(number) // max(1, len(data)) + 1))[: encoding.size(number)]):
        try:
            numbers = receive(encoding, candidate, np.ones(number, np.float32))
        except FednnUNetError:
            continue
        assert len(candidate) == encoding.size(number)
        assert numbers.shape == (number,)
        assert np.isfinite(numbers).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "dtype"), [("float32", "<f4"), ("float16", "<f2"), ("int8", "<f4")])
def test_what_is_not_finite_is_refused(name: EncodingName, dtype: str, value: float) -> None:
    encoding = ENCODINGS[name]
    data = bytearray(encoding.encode(np.ones(300, np.float32), rounding(0))[0])
    data[: np.dtype(dtype).itemsize] = np.array([value], dtype).tobytes()
    with pytest.raises(FednnUNetError, match="NaN or infinite"):
        encoding.decode(bytes(data), 300)


def test_a_length_that_was_not_agreed_is_refused() -> None:
    for encoding in ENCODINGS.values():
        data, _ = encoding.encode(np.ones(300, np.float32), rounding(0))
        with pytest.raises(FednnUNetError, match="bytes instead of"):
            encoding.decode(data[:-1], 300)


@EACH
def test_rounding_errors_are_made_good_for_in_the_rounds_that_follow(name: EncodingName) -> None:
    """A constant model is sent again and again; the receiver's mean error vanishes, as the sum of errors is bounded."""
    encoding: Encoding = ENCODINGS[name]
    rng = np.random.default_rng(1)
    drift = rng.normal(size=1000).astype(np.float32) * 1e-3
    sender, known, model = Sender(encoding, 1000), np.zeros(1000, np.float32), np.zeros(1000, np.float32)
    for number in range(200):
        model = model + drift
        data, sent = sender.encode(slice(0, 1000), model, known, rounding(number))
        np.testing.assert_array_equal(receive(encoding, data, known), sent)
        known = sent
    one_step = np.abs(drift).max() / 127 * 3
    np.testing.assert_allclose(known, model, atol={"float32": 0, "float16": 1e-6, "int8": one_step}[name] + 2e-5)


def test_rounding_is_the_same_in_every_run() -> None:
    first, second, other = (rounding(*about).random(5) for about in ((1, 2), (1, 2), (1, 3)))
    assert (first == second).all()
    assert (first != other).any()
