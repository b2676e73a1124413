import pytest

from fednnunet.coordinator.training_flags import ScheduleFlags
from fednnunet.errors import FednnUNetError
from fednnunet.protocol.messages import TrainingOffer

STOCK = TrainingOffer(epochs=1000, iterations_per_epoch=250, val_iterations_per_epoch=50)
SHORT = TrainingOffer(epochs=5, iterations_per_epoch=250, val_iterations_per_epoch=50)


@pytest.mark.parametrize(("local_epochs", "rounds"), [(1, 1000), (10, 100), (3, 334), (2000, 1)])
def test_rounds_default_to_the_trainers_epochs_over_local_epochs(local_epochs: int, rounds: int) -> None:
    schedule = ScheduleFlags(None, local_epochs, None, None).schedule({"A": STOCK, "B": STOCK})
    assert (schedule.rounds, schedule.epochs) == (rounds, rounds * local_epochs)
    assert (schedule.iterations_per_epoch, schedule.val_iterations_per_epoch) == (250, 50)


def test_the_coordinators_numbers_hold_whatever_the_trainers_would_do() -> None:
    schedule = ScheduleFlags(7, 2, 3, 4).schedule({"A": STOCK, "B": SHORT})
    assert (schedule.rounds, schedule.epochs) == (7, 14)
    assert (schedule.iterations_per_epoch, schedule.val_iterations_per_epoch) == (3, 4)


def test_trainers_that_differ_are_refused_naming_the_flag() -> None:
    with pytest.raises(FednnUNetError, match=r"num_epochs.*--rounds"):
        ScheduleFlags(None, 1, None, None).schedule({"A": STOCK, "B": SHORT})


def test_a_schedule_that_no_node_would_take_is_refused_at_the_coordinator() -> None:
    with pytest.raises(FednnUNetError, match=r"rounds 1000000, .*correct it"):
        ScheduleFlags(10**6, 1, None, None).schedule({"A": STOCK})
