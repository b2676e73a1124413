import json
from typing import Any

import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.protocol.messages import (
    MOST_CASES,
    CommonPlans,
    EvaluationRequest,
    Farewell,
    Hello,
    ModelPart,
    PlannerOptions,
    Query,
    Ready,
    RoundReport,
    Schedule,
    SharedCases,
    Sharing,
    Start,
)
from fednnunet.schema import Message, cleaned
from fednnunet.weights.layout import TensorSpec

HELLO = Hello(
    method="FFE",
    site="A",
    task="train",
    cases=3,
    versions={},
    labels={"background": 0, "x": [1, 2]},
    channels={"0": "MRI"},
)


def test_a_message_survives_the_wire() -> None:
    assert Hello.from_json(HELLO.to_json()) == HELLO
    assert list(Hello.from_json(HELLO.to_json()).labels) == ["background", "x"]


def test_a_site_without_test_cases_may_say_so() -> None:
    assert Hello.from_json(HELLO.model_copy(update={"cases": 0, "task": "evaluate"}).to_json()).cases == 0


def test_not_a_number_travels_as_null() -> None:
    report = RoundReport(train_loss=float("nan"), val_loss=float("inf"), mean_dice=0.5, dice={"a": float("nan")})
    copy = RoundReport.from_json(report.to_json())
    assert (copy.train_loss, copy.val_loss, copy.mean_dice, copy.dice) == (None, None, 0.5, {"a": None})


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "Schedule"),
        ("[]", "Schedule"),
        ('{"rounds": 0, "local_epochs": 1, "iterations_per_epoch": 1, "val_iterations_per_epoch": 1}', "rounds"),
        ('{"rounds": 1, "local_epochs": 1, "iterations_per_epoch": 1, "val_iterations_per_epoch": 1, "x": 1}', "x"),
    ],
)
def test_what_does_not_fit_the_schema_is_refused_naming_the_field(text: str, what: str) -> None:
    with pytest.raises(FednnUNetError, match=what):
        Schedule.from_json(text)


_TENSOR = {"name": "a", "shape": [2, 3], "dtype": "float32"}
_READY = {"tensors": [_TENSOR], "training_cases": 1, "pretrained": False}
_SCHEDULE = {"rounds": 1, "local_epochs": 1, "iterations_per_epoch": 1, "val_iterations_per_epoch": 1}
_HELLO = json.loads(HELLO.to_json())


def _digits(**changes: Any) -> dict[str, Any]:
    follow = {"quantity": ["intensity", 0], "bits": 0, "prefixes": [0]}
    return {"question": {"kind": "digits", "follow": [follow | changes]}}


def _cases(**changes: Any) -> dict[str, Any]:
    return {"spacings": [[1.0, 1.0, 1.0]], "shapes": [[3, 3, 3]], **changes}


@pytest.mark.parametrize(
    ("kind", "content", "field"),
    [
        (Hello, _HELLO | {"site": "../A"}, "site"),
        (Hello, _HELLO | {"site": "A\x1b[2J"}, "site"),
        (Hello, _HELLO | {"site": "A\u202eB"}, "site"),
        (Hello, _HELLO | {"site": ".A"}, "site"),
        (Hello, _HELLO | {"site": "A "}, "site"),
        (Hello, _HELLO | {"site": ""}, "site"),
        (Hello, _HELLO | {"site": "A" * 121}, "site"),
        (Hello, _HELLO | {"labels": {str(label): label for label in range(1001)}}, "labels"),
        (Hello, _HELLO | {"labels": {"x\ny": 1}}, "labels"),
        (Hello, _HELLO | {"labels": {"x": [1] * 1001}}, "labels"),
        (Hello, _HELLO | {"channels": {"0": "C" * 201}}, "channels"),
        (Hello, _HELLO | {"cases": 10**10}, "cases"),
        (Hello, _HELLO | {"cases": 0}, "should have cases"),
        (Hello, _HELLO | {"cases": -1, "task": "evaluate"}, "cases"),
        (EvaluationRequest, {"nsd_tolerance": 0}, "nsd_tolerance"),
        (Hello, _HELLO | {"\x1b[2J": 1}, r"\?\[2J"),
        (PlannerOptions, {"planner": "P", "plans_name": "../x"}, "plans_name"),
        (PlannerOptions, {"planner": "P", "target_spacing": [1, 1, 0]}, "target_spacing"),
        (Schedule, _SCHEDULE | {"rounds": 10**400}, "rounds"),
        (Start, {"fold": 1000, "schedule": _SCHEDULE, "run": "a", "completed": 0}, "fold"),
        (Start, {"fold": "../0", "schedule": _SCHEDULE, "run": "a", "completed": 0}, "fold"),
        (Start, {"fold": 0, "schedule": _SCHEDULE, "run": "a/b", "completed": 0}, "run"),
        (ModelPart, {"round": 1, "group": 0, "start": 0, "stop": 2**41}, "stop"),
        (ModelPart, {"round": 1, "group": 0, "start": -1, "stop": 1}, "start"),
        (Query, _digits(prefixes=[0] * 9), "prefixes"),
        (Query, _digits(prefixes=[2**64]), "prefixes"),
        (Query, _digits(prefixes=[-1]), "prefixes"),
        (Query, _digits(quantity=["intensity", 1000]), "quantity"),
        (Query, _digits(quantity=["voxels", 0]), "quantity"),
        (Query, {"question": {**_digits()["question"], "target_spacing": [1.0, 0.0, 1.0]}}, "target_spacing"),
        (Query, {"question": {**_digits()["question"], "target_spacing": [1.0, float("nan"), 1.0]}}, "target_spacing"),
        (SharedCases, _cases(spacings=[[1.0, 1.0, float("inf")]]), "spacings"),
        (SharedCases, _cases(shapes=[[-1, 1, 1]]), "shapes"),
        (SharedCases, _cases(shapes=[[1, 1, 1]] * 2), "same cases"),
        (Ready, _READY | {"tensors": [_TENSOR, _TENSOR]}, "twice"),
        (Ready, _READY | {"tensors": [_TENSOR | {"shape": [2**20] * 3}]}, "tensors"),
        (Ready, _READY | {"tensors": [_TENSOR | {"shape": [1] * 17}]}, "tensors"),
        (Ready, _READY | {"tensors": [_TENSOR | {"name": str(i), "shape": [2**33]} for i in range(3)]}, "elements"),
        (Ready, _READY | {"tensors": [_TENSOR | {"name": "a\n"}]}, "name"),
        (Ready, _READY | {"tensors": [_TENSOR | {"dtype": "../x"}]}, "dtype"),
        (Sharing, {"groups": [["a"], ["b", "a"]], "encoding": "float32"}, "twice"),
        (CommonPlans, {"fingerprint": {"a": float("nan")}}, "finite"),
        (CommonPlans, {"fingerprint": {"a": [2**64]}}, "64 bits"),
        (CommonPlans, {"fingerprint": {"a": json.loads("[" * 30 + "]" * 30)}}, "nested"),
    ],
)
def test_what_is_beyond_any_bounds_is_refused_naming_the_field(
    kind: type[Message], content: dict[str, Any], field: str
) -> None:
    with pytest.raises(FednnUNetError, match=field) as refusal:
        kind.from_json(json.dumps(content))
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 600


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * (1 << 16), "field|JSON|malformed"),
        ("x" * ((1 << 16) + 1), "longer than 65536 bytes"),
        ("é" * (1 << 15) + "x", "longer than 65536 bytes"),
        ("[" * ((1 << 12) + 1) + "]", "too many values"),
        ("[" + "1," * (1 << 12) + "1]", "too many values"),
        ("[" * 1000 + "]" * 1000, "recursion"),
        ("\ud800", "Unicode"),
        ('"\\ud800"', "JSON"),
        ('{"rounds": 1' + "0" * 5000 + "}", "rounds|JSON"),
        (None, "not text"),
        (b"{}", "not text"),
    ],
)
def test_texts_that_nobody_could_mean_are_refused(text: Any, reason: str) -> None:
    with pytest.raises(FednnUNetError, match=reason) as refusal:
        Schedule.from_json(text)
    assert len(str(refusal.value)) < 600
    assert refusal.value.__context__ is None, "the refused text stays in memory with it"


@pytest.mark.parametrize(
    "name",
    [
        "Dataset511_HippoPlainA",
        "Köln (Uniklinik), Haus 2",
        "St. Mary's",
        "北京-协和",
        "दिल्ली",
        "A",
        "8",
        "_x",
        "a.b+c&d",
    ],
)
def test_names_that_people_give_are_taken(name: str) -> None:
    assert Hello.from_json(json.dumps(_HELLO | {"site": name})).site == name


def test_the_largest_messages_that_there_can_be_are_taken() -> None:
    stages = [f"decoder.encoder.stages.{stage}.0.convs.{stage % 7}.all_modules.0.weight" for stage in range(20_000)]
    tensors = [TensorSpec(name, (320, 320, 3, 3, 3) if index < 6000 else (320,), "float32") for index, name in
               enumerate(stages)]  # fmt: skip
    labels = {f"label number {label} of many": [label, label + 1, label + 2] for label in range(1000)}
    cases = MOST_CASES
    for message in (
        Ready(tensors=tensors, training_cases=1, pretrained=False),
        Sharing(groups=[stages], encoding="int8"),
        HELLO.model_copy(update={"labels": labels, "channels": {str(channel): "CT" for channel in range(1000)}}),
        RoundReport(train_loss=1.0, val_loss=1.0, mean_dice=1 / 3, dice=dict.fromkeys(labels, 1 / 3)),
        SharedCases(spacings=[(1 / 3, 2 / 3, 1 / 7)] * cases, shapes=[(1024, 1024, 1024)] * cases),
    ):
        assert type(message).from_json(message.to_json()) == message
    fingerprint = {"spacings": [[1 / 3, 2 / 3, 1 / 7]] * cases, "shapes_after_crop": [[1024] * 3] * cases}
    common = CommonPlans(fingerprint=fingerprint)
    assert CommonPlans.from_json(common.to_json()).fingerprint == fingerprint


def test_a_farewell_is_shown_without_what_could_steer_a_terminal_and_never_refused() -> None:
    farewell = Farewell.from_json(json.dumps({"error": "gone\x1b[2J\nfor good\u202e" + "!" * 5000}))
    assert farewell.error is not None
    assert farewell.error.startswith("gone?[2J for good?!!!")
    assert len(farewell.error) == 2000
    assert Farewell.from_json(farewell.to_json()) == farewell
    assert Farewell.from_json("{}").error is None


def test_a_text_that_can_be_shown_is_left_as_it_is() -> None:
    assert cleaned("Site Köln failed: 5 µm, see “log”.") == "Site Köln failed: 5 µm, see “log”."
    assert cleaned("a\tb\r\nc\u2028d") == "a b  c d"
    assert (cleaned("abcdef", 6), cleaned("abcdefg", 6)) == ("abcdef", "abcde…")


def test_what_a_user_has_given_wrongly_is_told_in_one_sentence() -> None:
    assert PlannerOptions.of(planner="P", plans_name="mine").plans_name == "mine"
    with pytest.raises(FednnUNetError, match="plans_name"):
        PlannerOptions.of(planner="P", plans_name="../mine")


@pytest.mark.parametrize(
    ("completed", "changes", "sentence"),
    [
        (10**6, {"rounds": 10}, "completed 1000000"),
        (10**6, {"rounds": 10**6}, "rounds 1000000.*100000 epochs"),
        (0, {"rounds": 10**5, "local_epochs": 10}, "local_epochs 10,"),
        (0, {"iterations_per_epoch": 10**9}, "iterations_per_epoch 1000000000"),
        (0, {"rounds": 1000, "iterations_per_epoch": 10**6}, "iterations_per_epoch 1000000,"),
        (0, {"val_iterations_per_epoch": 10**9}, "val_iterations_per_epoch 1000000000"),
    ],
)
def test_a_start_of_a_training_that_would_never_end_is_refused_naming_key_and_value(
    completed: int, changes: dict[str, int], sentence: str
) -> None:
    schedule = {"rounds": 1000, "local_epochs": 1, "iterations_per_epoch": 250, "val_iterations_per_epoch": 50}
    start = {"fold": 0, "run": "a", "completed": 0, "schedule": schedule}
    assert Start.from_json(json.dumps(start)).schedule.epochs == 1000
    with pytest.raises(FednnUNetError, match=sentence):
        Start.from_json(json.dumps({**start, "completed": completed, "schedule": {**schedule, **changes}}))
