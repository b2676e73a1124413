import pytest

from fednnunet.coordinator.schedule import agreed_schedule
from fednnunet.errors import FednnUNetError
from fednnunet.protocol.messages import Schedule, TrainingOffer
from fednnunet.settings.coordinator import CoordinatorSettings

STOCK = TrainingOffer(epochs=1000, iterations_per_epoch=250, val_iterations_per_epoch=50)
SHORT = TrainingOffer(epochs=5, iterations_per_epoch=250, val_iterations_per_epoch=50)


def _schedule(offers: dict[str, TrainingOffer], **numbers: int) -> Schedule:
    return agreed_schedule(CoordinatorSettings(task="train", num_clients=len(offers), **numbers), offers)


@pytest.mark.parametrize(("local_epochs", "rounds"), [(1, 1000), (10, 100), (3, 334), (2000, 1)])
def test_rounds_default_to_the_trainers_epochs_over_local_epochs(local_epochs: int, rounds: int) -> None:
    schedule = _schedule({"A": STOCK, "B": STOCK}, local_epochs=local_epochs)
    assert (schedule.rounds, schedule.epochs) == (rounds, rounds * local_epochs)
    assert (schedule.iterations_per_epoch, schedule.val_iterations_per_epoch) == (250, 50)


def test_the_coordinators_numbers_hold_whatever_the_trainers_would_do() -> None:
    schedule = _schedule(
        {"A": STOCK, "B": SHORT}, rounds=7, local_epochs=2, iterations_per_epoch=3, val_iterations_per_epoch=4
    )
    assert (schedule.rounds, schedule.epochs) == (7, 14)
    assert (schedule.iterations_per_epoch, schedule.val_iterations_per_epoch) == (3, 4)


def test_trainers_that_differ_are_refused_naming_the_flag() -> None:
    with pytest.raises(FednnUNetError, match=r"num_epochs.*--rounds"):
        _schedule({"A": STOCK, "B": SHORT})


def test_a_schedule_that_no_node_would_take_is_refused_at_the_coordinator() -> None:
    with pytest.raises(FednnUNetError, match=r"rounds 1000000, .*correct it"):
        _schedule({"A": STOCK}, rounds=10**6)
