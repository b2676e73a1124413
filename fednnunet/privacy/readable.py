"""Describes questions and answers in words and numbers, for the person who approves a message."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fednnunet.fingerprint.questions import COUNT_BYTES, COUNTS
from fednnunet.schema import cleaned

_MOST_LINES, _LONGEST_LINE, _SHOWN_ITEMS = 60, 200, 6

_ASKED = {
    "measure": "the site to measure all of its cases",
    "cases": "for spacing and shape of each case",
    "fit": "a question about the measurements of all cases",
    "install": "the site to install common plans and to preprocess its cases",
    "plan_alone": "the site to plan for itself",
    "agree": "for a one-time key for a masked sum",
    "join": "the site to mask what it tells for a sum over these sites",
    "figures": "for losses and Dice of a round as terms of masked sums",
    "open": "for the key that opens the sum of all masked updates",
    "offer": "for the trainer's schedule",
    "start": "the site to prepare a training",
    "share": "the site to note which tensors are shared",
    "describe": "for a description of the network",
    "fetch": "for a part of the network's weights",
    "collect": "for a part of the local weights, once, for the mean in the exported model",
    "evaluate": "for losses and Dice of a round's global model",
    "gain": "for the site's benefit from the federation, on its validation cases",
    "finish": "for the full validation after the last round",
    "test": "for metrics of the model on the test cases",
}


def asked(question: str, body: Mapping[str, object]) -> list[str]:
    """Return lines that describe a question."""
    what = _ASKED.get(question)
    return [] if what is None else [f"The coordinator asks {what}.", *_indented(body)]


def answered(body: Mapping[str, object], arrays: Sequence[str]) -> list[str]:
    """Return lines that describe an answer: fields by name, and arrays as the functions below describe them."""
    lines = ["The answer:", *_indented(body), *(f"  {array}" for array in arrays)]
    return lines if len(lines) > 1 else ["The answer has no content."]


def counts(data: bytes) -> str:
    """Return how many counts there are, the smallest and the largest."""
    return _numbers(np.frombuffer(data[: len(data) // COUNT_BYTES * COUNT_BYTES], COUNTS))


def masked(data: bytes, sites: Sequence[str]) -> str:
    """Return how long a term of a masked sum is, and over which sites the sum goes."""
    return (
        f"a term of a masked sum: {len(data)} bytes, which tell nothing alone; the coordinator sees the sum over "
        f"{', '.join(sites) or 'unknown sites'} only"
    )


def weights(data: bytes, body: Mapping[str, object]) -> str:
    """Return of a part of a model's weights how many they are, the smallest and the largest, if that can be read."""
    start, stop = body.get("start"), body.get("stop")
    number = stop - start if isinstance(start, int) and isinstance(stop, int) else 0
    if number > 0 and len(data) == 4 * number:
        return f"weights: {_numbers(np.frombuffer(data, '<f4'))}"
    if number > 0 and len(data) == 2 * number:
        return f"weights: {_numbers(np.frombuffer(data, '<f2').astype(np.float32))}"
    rounded = f"{number} numbers, rounded, in {len(data)} bytes" if number > 0 else f"{len(data)} bytes"
    return f"weights: {rounded}"


def _numbers(array: np.ndarray) -> str:
    if array.size == 0:
        return "no numbers"
    values = f"{array.size} numbers from {array.min():.6g} to {array.max():.6g}"
    zeros = int((array == 0).sum())
    return f"{values}, mean {array.mean():.6g}" + (f", {zeros} of them 0" if zeros else "")


def _indented(body: Mapping[str, object]) -> list[str]:
    lines = [cleaned(f"  {line}", _LONGEST_LINE) for line in _lines("", body)]
    return lines if len(lines) <= _MOST_LINES else [*lines[:_MOST_LINES], f"  … and {len(lines) - _MOST_LINES} more"]


def _lines(name: str, value: object) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _lines(f"{name}.{key}" if name else str(key), inner)
    elif value is None or value in ({}, []):
        if name:
            yield f"{name}: none"
    elif isinstance(value, list):
        yield f"{name}: {_listed(value)}"
    else:
        yield f"{name}: {value}"


def _listed(values: list[object]) -> str:
    if len(values) <= _SHOWN_ITEMS and not any(isinstance(value, list | dict) for value in values):
        return ", ".join(map(str, values))
    try:
        array = np.array(values, dtype=np.float64)
        if array.ndim <= 2:
            return " by ".join(map(str, array.shape)) + " numbers" + _numbers(array).partition(" numbers")[2]
    except (TypeError, ValueError):
        pass
    return f"list of {len(values)}"
