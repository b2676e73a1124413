"""Models of the sites' own, which they train beside the federation's once that is done and can be lost no more."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from fednnunet.channel.messages import OwnModel, OwnTrained, OwnTraining
from fednnunet.coordinator.attendance import Attendance
from fednnunet.coordinator.roster import Roster, each
from fednnunet.coordinator.run_folder import RunDescription
from fednnunet.coordinator.site import Site, SiteLost
from fednnunet.coordinator.training_flags import OwnModelFlags, RecoveryFlags
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.message import Message
from fednnunet.report.events import EventSink, StageStarted

AnyMessage = TypeVar("AnyMessage", bound=Message)


@dataclass(frozen=True)
class OwnModels:
    """Lets the sites train their own models of a fold.

    A site that fails at that has the federation's model nevertheless, so nobody waits for it. One that is lost can come
    back as long as fewer than `min_clients` have answered, and later with ``--c``: what is done is not done again.

    Parameters
    ----------
    flags
        Which models.
    description
        The federated training, which is finished.
    recovery
        Who may be missing.
    roster
        The sites.
    sink
        Takes what happens.
    """

    flags: OwnModelFlags
    description: RunDescription
    recovery: RecoveryFlags
    roster: Roster
    sink: EventSink

    def train(self) -> None:
        """Let each site train the models that the flags ask for, one after the other."""
        for model, epochs in self.flags.epochs(self.description.schedule).items():
            self.sink.emit(StageStarted(title=f"{_TITLES[model]}, fold {self.description.fold}"))
            changes = {"rounds": epochs, "local_epochs": 1, "proximal_mu": 0.0}
            asked = OwnTraining(
                fold=self.description.fold,
                run=self.description.run,
                model=model,
                schedule=self.description.schedule.model_copy(update=changes),
            )
            self._ask_all("train_own", asked, OwnTrained, f"{model} {epochs}")

    def _ask_all(self, kind: str, body: Message, answer: type[AnyMessage], what: str) -> dict[str, AnyMessage]:
        """Ask all sites, and return the answers of those that have one."""
        attendance = Attendance(self.roster, self.recovery.min_clients, self.recovery.give_up_after, self.sink)
        number, question = self.description.schedule.rounds, f"{self.description.run} {what}"
        answers: dict[str, AnyMessage] = {}
        failed: set[str] = set()
        while len(answers) + len(failed) < self.recovery.min_clients:
            there = attendance.muster(number, self._check, {*answers, *failed})
            sites = [site for site in there if site.name not in {*answers, *failed}]
            ask = partial(Site.ask, kind=kind, body=body, answer=answer, question=question)
            told, failures = in_their_time(sites, ask, {*answers, *failed}, self.recovery)
            answers |= told
            failed |= {failure.site for failure in failures if not isinstance(failure, SiteLost)}
            attendance.leave_out(failures, number)
        return {name: answers[name] for name in sorted(answers)}

    def _check(self, site: Site) -> None:
        if site.name not in self.description.sites:
            raise FednnUNetError(f"site {site.name} has taken no part in this training")


def in_their_time(
    sites: Sequence[Site], ask: partial[AnyMessage], before: set[str], recovery: RecoveryFlags
) -> tuple[Mapping[str, AnyMessage], list[SiteFailure]]:
    """Ask sites what takes as long as it takes.

    Once the first one is done, it waits for others: those that are needed get `--give_up_after` more, and once enough
    are done, the rest no more than a round's time.

    Parameters
    ----------
    sites
        The sites.
    ask
        What is asked of each.
    before
        Those that are done already.
    recovery
        How many are needed, and how long others may take.

    Returns
    -------
    The answers by site, and what went wrong.
    """
    done, finishing = set(before), threading.Lock()

    def hurry_others() -> None:
        for other in sites:
            other.hurry(recovery.give_up_after)
            other.hurry(recovery.round_timeout if len(done) >= recovery.min_clients else None)

    def finish(site: Site) -> AnyMessage:
        answer = ask(site)
        with finishing:
            done.add(site.name)
            hurry_others()
        return answer

    for site in sites:
        site.allow(None)
    if done:
        hurry_others()
    told, failures = each([(site, partial(finish, site)) for site in sites])
    return {site.name: answer for site, answer in told}, failures


_TITLES: dict[OwnModel, str] = {"personal": "personal models", "alone": "models trained alone"}
