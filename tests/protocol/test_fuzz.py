"""Whatever somebody sends, it is a message or it is refused; it never does anything else, and takes little memory."""

import copy
import json
import random
import re
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fednnunet.protocol.messages
import fednnunet.protocol.secure_aggregation
import fednnunet.security.identity
from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.plans import check_fingerprint, check_plans
from fednnunet.protocol.messages import CommonPlans
from fednnunet.schema import Message, WireMessage
from fednnunet.weights.encoding import ENCODINGS, EncodingName, rounding
from fednnunet.weights.layout import Layout, TensorSpec
from fednnunet.weights.site_model import SiteModel
from tests.fingerprint.example_plans import FINGERPRINT, PLANS

EXAMPLES, EACH = 100, 100
"""Hypothesis draws so many sources of randomness, and each makes so many malformed things."""
MOST_MEGABYTES = 64

_fuzzed = settings(max_examples=EXAMPLES, database=None)
_random = st.integers(0, 2**63).map(random.Random)

_TEXTS = ("", "a", "../../etc/passwd", "\x1b[2J", "a\0b", "\u202e", "é", "-1", "1", "NaN", "all", "\ud800", "x" * 3000)
_NUMBERS = (0, 1, -1, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308, 1e17)
_ODD: tuple[Any, ...] = (
    *_TEXTS,
    *_NUMBERS,
    float("nan"),
    float("-inf"),
    None,
    True,
    False,
    [],
    {},
    [[]],
    {"a": {}},
    [None] * 50,
    ["a", "a"],
    {"__class__": "x"},
)
_PIECES = (
    *(
        b"",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b'"',
        b"-",
        b"\\",
        b"\n",
        b"\x00",
        b"\xff",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
    ),
    *(b"\\ud800", b"NaN", b"null", b"1e999", b"9" * 30, b"9" * 5000, b"[" * 500, b'{"a":' * 300),
)


def _kinds() -> Iterator[type[Message]]:
    """Yield every kind of message that crosses the network."""
    waiting: list[type[Message]] = [Message]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        in_messages = kind.__module__ == fednnunet.protocol.messages.__name__
        if kind is not WireMessage and (in_messages or issubclass(kind, WireMessage)):
            yield kind


KINDS = sorted(_kinds(), key=lambda kind: kind.__name__)


def example(kind: type[Message]) -> dict[str, Any]:
    """Return a message of a kind as JSON, made of nothing but the kind's own schema, with all of its fields."""
    schema = kind.model_json_schema()
    content = _value(schema, schema.get("$defs", {}))
    assert isinstance(content, dict)
    kind.model_validate_json(json.dumps(content))
    return content


_WORDS = (
    "a",
    "0" * 32,
    "0" * 64,
    "0" * 128,
    "A" * 43 + "=",
    "A" * 86 + "==",
    "2026-01-01T00:00:00Z",
    "1.0.0",
    "b" * 40,
)


def _value(schema: dict[str, Any], defs: dict[str, Any]) -> Any:
    if "$ref" in schema:
        return _value(defs[schema["$ref"].rpartition("/")[2]], defs)
    for choices in ("anyOf", "oneOf"):
        if choices in schema:
            return _value(schema[choices][0 if choices == "anyOf" else -1], defs)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[-1])
    match schema["type"]:
        case "object" if "properties" in schema:
            return {name: _value(inner, defs) for name, inner in schema["properties"].items()}
        case "object":
            return {"0": _value(schema["additionalProperties"], defs)} if "additionalProperties" in schema else {"0": 1}
        case "array":
            number = max(1, schema.get("minItems", 1))
            items = schema.get("prefixItems") or [schema["items"]] * number
            return [_value(item, defs) for item in items]
        case "string":
            return next(word for word in _WORDS if _fits(word, schema))
        case "integer" | "number":
            return max(1, schema.get("minimum", 1))
        case kind:
            return {"boolean": True, "null": None}[kind]


def _fits(word: str, schema: dict[str, Any]) -> bool:

    long_enough = schema.get("minLength", 0) <= len(word) <= schema.get("maxLength", len(word))
    return long_enough and re.search(schema.get("pattern", ""), word) is not None


def damaged(text: bytes, rng: random.Random) -> bytes:
    """Return a text with a few bytes changed, cut out, doubled, or replaced by what parsers stumble over."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        start = rng.randrange(len(text) + 1)
        stop = min(len(text), start + rng.choice((0, 1, 1, 2, 8, 40, len(text))))
        match rng.randrange(5):
            case 0:
                text = text[:start] + bytes([rng.randrange(256)]) + text[start + 1 :]
            case 1:
                text = text[:start] + text[stop:]
            case 2:
                text = text[:stop] + text[start:]
            case 3:
                text = text[:start] + rng.choice(_PIECES) + text[stop:]
            case _:
                text = text[:start]
    return text[: 1 << 17]


def distorted(content: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Return a JSON object with a few of its values, wherever they stand, replaced, removed, doubled or renamed."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        inside: dict[str, Any] | list[Any] = content
        while True:
            keys = list(inside) if isinstance(inside, dict) else range(len(inside))
            if not keys:
                break
            key = rng.choice(keys)
            if not isinstance(inside[key], dict | list) or rng.random() < 0.3:  # type: ignore[index]
                _distort(inside, key, rng)
                break
            inside = inside[key]  # type: ignore[index]
    return content


def _distort(inside: Any, key: Any, rng: random.Random) -> None:
    value = inside[key]
    match rng.randrange(7):
        case 0:
            del inside[key]
        case 1 if isinstance(inside, dict):
            inside[rng.choice(_TEXTS)] = value
        case 1:
            inside.insert(key, value)
        case 2:
            inside[key] = [value] * rng.choice((1, 2, 30))
        case 3:
            inside[key] = {"a": value}
        case 4 if isinstance(value, int | float):
            inside[key] = rng.choice((-value, value + 1, value * 3, str(value)))
        case 4 if isinstance(value, str):
            inside[key] = rng.choice((value + rng.choice(_TEXTS), rng.choice(_TEXTS) + value, value[:1] * 600))
        case _:
            inside[key] = copy.deepcopy(rng.choice(_ODD))


def _text(content: Any, rng: random.Random) -> str:
    text = json.dumps(content, ensure_ascii=rng.random() < 0.5)
    return text.replace('"0":', rng.choice(('"0":', '"0":1,"0":')), 1)


def _taken(action: Callable[[], Any]) -> bool:
    """Return whether something is taken; if it is refused, then in a sentence that can be shown."""
    try:
        action()
    except FednnUNetError as error:
        told = str(error)
    else:
        return True
    assert told.isprintable()
    assert len(told) < 1000
    return False


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Fail if the process grows meanwhile by more than what such messages may take."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown // (1 << 20 if sys.platform == "darwin" else 1 << 10) < MOST_MEGABYTES


def _read(kind: type[Message], text: str) -> bool:
    """Return whether a text is a message, which must then come out of its own text as it is."""
    if not _taken(lambda: kind.from_json(text)):
        return False
    message = kind.from_json(text)
    again = message.to_json()
    assert kind.from_json(again) == message
    assert kind.from_json(again).to_json() == again
    return True


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.usefixtures("little_memory")
def test_a_text_is_a_message_or_is_refused(kind: type[Message]) -> None:
    content = example(kind)
    whole = kind.model_validate_json(json.dumps(content)).to_json()
    assert _read(kind, whole)
    read = {True: 0, False: 0}

    @given(_random)
    @_fuzzed
    def check(rng: random.Random) -> None:
        for _ in range(EACH):
            bytes_of_it = damaged(whole.encode(), rng)
            read[_read(kind, bytes_of_it.decode(errors=rng.choice(("replace", "surrogateescape"))))] += 1
            read[_read(kind, _text(distorted(content, rng), rng))] += 1

    check()
    assert read[False] > EXAMPLES * EACH


def test_all_messages_between_coordinator_and_node_are_known_to_be_small_or_large() -> None:
    assert {kind for kind in KINDS if not issubclass(kind, WireMessage)} == set()
    assert {kind.__name__ for kind in KINDS if kind.longest_text > 1 << 20} == {
        "CommonPlans",
        "ModelDescription",
        "Ready",
        "SharedCases",
        "Shared",
        "Sharing",
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_of_a_message_has_bounds(kind: type[Message]) -> None:
    assert list(_unbounded(kind.model_json_schema())) == []


def _unbounded(schema: Any, where: str = "") -> Iterator[str]:
    """Yield where a JSON schema lets anything grow as it will."""
    if isinstance(schema, list):
        for index, item in enumerate(schema):
            yield from _unbounded(item, f"{where}.{index}")
    if not isinstance(schema, dict):
        return
    is_closed = schema.get("additionalProperties") is False or "const" in schema or "enum" in schema
    needed = {
        "string": ("maxLength", "pattern", "const", "enum"),
        "array": ("maxItems",),
        "object": ("maxProperties",),
        "integer": ("maximum", "exclusiveMaximum", "const", "enum"),
    }.get(str(schema.get("type")), ())
    if needed and not is_closed and not any(bound in schema for bound in needed):
        yield where
    for key, inner in schema.items():
        yield from _unbounded(inner, f"{where}.{key}")


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("what", "check"), [(PLANS, check_plans), (FINGERPRINT, check_fingerprint)], ids=["plans", "fingerprint"]
)
def test_plans_and_fingerprints_are_taken_or_refused(what: dict[str, Any], check: Callable[[Any], None]) -> None:
    refused = []

    @given(_random)
    @_fuzzed
    def fuzz(rng: random.Random) -> None:
        for _ in range(EACH):
            content = distorted(what, rng)
            refused.append(not _taken(lambda content=content: check(content)))

    fuzz()
    assert sum(refused) > EXAMPLES * EACH / 2


def test_plans_that_are_taken_after_the_way_through_a_message_have_paths_and_code_as_before() -> None:
    taken = []

    @given(_random)
    @_fuzzed
    def fuzz(rng: random.Random) -> None:
        for _ in range(EACH // 10):
            try:
                plans = CommonPlans.from_json(_text({"fingerprint": {}, "plans": distorted(PLANS, rng)}, rng)).plans
                check_plans(plans or {})
            except FednnUNetError:
                continue
            assert plans is not None
            taken.append(plans)
            for configuration in plans["configurations"].values():
                path = configuration.get("data_identifier", "a")
                assert path
                assert not set("/\\\0") & set(path + plans["plans_name"])
                network = configuration.get("architecture", {"network_class_name": "dynamic_network_architectures."})
                assert network["network_class_name"].startswith("dynamic_network_architectures.")

    fuzz()
    assert taken


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", ENCODINGS)
def test_a_part_of_a_model_is_taken_or_refused(name: EncodingName) -> None:
    encoding, number = ENCODINGS[name], 300
    site = SiteModel("A", [Layout((TensorSpec("a", (number,), "float32"),))], encoding)
    whole = encoding.encode(np.linspace(-1, 1, number, dtype=np.float32), rounding(0))[0]
    results = {True: 0, False: 0}

    @given(_random)
    @_fuzzed
    def fuzz(rng: random.Random) -> None:
        for _ in range(EACH):
            if rng.random() < 0.5:
                data = damaged(whole, rng)
            else:  # of the right length
                data = bytearray(whole)
                for _ in range(rng.choice((1, 4, 64))):
                    data[rng.randrange(len(data))] = rng.choice((0x00, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            part = rng.choice(((0, 0, number),) * 8 + ((0, 0, 2**40), (2**40, 0, 1), (0, -1, 5), (-1, 0, number)))
            results[_taken(lambda data=data: encoding.decode(bytes(data), number))] += 1
            _taken(lambda data=data, part=part: site.take(*part, rng.choice((0, 1, 10**6)), bytes(data)))
            site.accept()
            assert np.isfinite(site.weights).all()
            site.weights[:] = 0

    fuzz()
    assert min(results.values()) > 100
