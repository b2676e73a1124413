import pytest

from fednnunet.channel.messages import Hello, RoundReport, Schedule
from fednnunet.errors import FednnUNetError

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
