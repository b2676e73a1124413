import pytest

from fednnunet.events.events import (
    Event,
    Finished,
    FoldValidated,
    ModelExported,
    RoundCompleted,
    SiteJoined,
    SiteLeftOut,
    SitesAwaited,
    SiteTakenIn,
    StageStarted,
)
from fednnunet.events.run_state import RunState
from fednnunet.protocol.messages import RoundReport


def training(fold: str = "0", rounds: int = 20, first_round: int = 1) -> StageStarted:
    return StageStarted(stage="training", fold=fold, rounds=rounds, first_round=first_round)


def completed(number: int, seconds: float = 10.0, rounds: int = 20, **dice: float) -> RoundCompleted:
    sites = {site: RoundReport(train_loss=0, val_loss=0, mean_dice=value, dice={}) for site, value in dice.items()}
    return RoundCompleted(round=number, rounds=rounds, seconds=seconds, sites=sites)


def test_the_remaining_time_is_the_median_of_the_last_ten_rounds() -> None:
    state = RunState.of([training()])
    assert state.remaining is None
    for number, seconds in enumerate((100.0, 10.0, 12.0), 1):
        state.take(completed(number, seconds))
    assert state.remaining == 17 * 12.0
    for number in range(4, 14):
        state.take(completed(number, 3.0))
    assert state.remaining == 7 * 3.0
    state.take(completed(20, 3.0))
    assert state.remaining is None


def test_a_new_fold_has_no_remaining_time_until_a_round_of_its_own_is_complete() -> None:
    state = RunState.of([training(), completed(20, 1000.0), training("1", 3)])
    assert state.remaining is None
    state.take(completed(1, 4.0, 3))
    assert state.remaining == 8.0


def test_rounds_that_come_again_are_forgotten_and_where_others_were_not_seen_it_is_known_how_many_are_done() -> None:
    state = RunState.of([training(), *map(completed, (1, 2, 3)), training(first_round=3)])
    assert state.fold is not None
    assert (list(state.fold.completed), state.fold.done, state.rounds_of("0")) == ([1, 2], 2, 2)
    assert RunState.of([training(first_round=6)]).rounds_of("0") == 5
    assert state.rounds_of("1") == 0


@pytest.mark.parametrize(
    "after",
    [
        StageStarted(stage="validating", fold="0"),
        ModelExported(folder="f", archive="a", folds=["0"]),
        Finished(seconds=1.0),
    ],
)
def test_once_the_training_is_over_there_is_no_remaining_time_but_the_last_round_is_known(after: Event) -> None:
    state = RunState.of([training(), completed(1), after])
    assert (state.is_training, state.remaining, state.last_round) == (False, None, completed(1))


def test_the_dice_of_a_site_stays_until_there_is_a_new_one() -> None:
    state = RunState.of([training(), completed(1, A=0.25, B=0.5), completed(2, A=0.75)])
    assert state.dice == {"A": 0.75, "B": 0.5}


def test_a_site_that_takes_part_again_is_not_awaited_any_more() -> None:
    state = RunState.of([SitesAwaited(sites=["A", "B"], present=1, needed=3), SiteTakenIn(site="A", round=1)])
    assert state.awaited == SitesAwaited(sites=["B"], present=2, needed=3)
    state.take(SiteTakenIn(site="B", round=1))
    assert state.awaited is None


def test_each_trouble_knows_its_stage_and_round() -> None:
    left_out = SiteLeftOut(site="A", round=2, reason="late")
    state = RunState.of([training(), completed(1), left_out, SitesAwaited(sites=["A"], present=1, needed=2)])
    stages_and_rounds = [(trouble.stage, trouble.round) for trouble in state.troubles]
    assert stages_and_rounds == [(training(), 2), (training(), 2)]
    assert state.failures == 1


def test_a_site_that_joins_again_does_not_hide_the_stage_but_begins_a_run_after_one_that_has_ended() -> None:
    joined = SiteJoined(site="A", cases=3, joined=1, expected=2)
    assert RunState.of([joined]).latest == joined
    state = RunState.of([joined, training(), completed(1), joined])
    assert (state.latest, state.is_training) == (training(), True)
    for event in (FoldValidated(fold="0", sites={}), Finished(seconds=1.0), joined):
        state.take(event)
    assert (state.latest, state.stage, state.is_training) == (joined, None, False)
