import threading

import pytest

from fednnunet.background import Background, Stopped, Tracker


def test_work_goes_on_while_others_ask_how_far_it_is() -> None:
    may_end = threading.Event()

    def work(tracker: Tracker) -> str:
        tracker.total, tracker.done = 3, 2
        may_end.wait()
        return "done"

    background = Background(work)
    assert not background.wait(0.01)
    may_end.set()
    assert background.wait(60)
    assert background.result() == "done"
    assert (background.tracker.done, background.tracker.total) == (2, 3)


def test_what_goes_wrong_is_raised_where_the_result_is_wanted() -> None:
    def work(tracker: Tracker) -> str:
        raise ValueError("wrong")

    background = Background(work)
    assert background.wait(60)
    with pytest.raises(ValueError, match="wrong"):
        background.result()


def test_work_can_be_stopped() -> None:
    def work(tracker: Tracker) -> None:
        while True:
            tracker.pause(60)
            tracker.check()

    background = Background(work)
    background.tracker.stop()
    assert background.wait(60)
    with pytest.raises(Stopped):
        background.result()
