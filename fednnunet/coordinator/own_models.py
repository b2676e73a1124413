"""Trains and compares the sites' own models, after the federated model has been saved."""

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from fednnunet.coordinator.agreement import FoldContext
from fednnunet.coordinator.asking import each
from fednnunet.coordinator.own_labels import of_own_labels
from fednnunet.coordinator.participation import Participation
from fednnunet.coordinator.run_folder import RunDescription
from fednnunet.coordinator.site import Site, SiteLost
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.events.events import GainTold, StageStarted
from fednnunet.protocol.messages import GainReport, GainRequest, OwnModel, OwnTrained, OwnTraining, Schedule
from fednnunet.schema import Message
from fednnunet.settings.coordinator import CoordinatorSettings

logger = logging.getLogger(__name__)

AnyMessage = TypeVar("AnyMessage", bound=Message)


@dataclass(frozen=True)
class OwnModels:
    """Lets the sites train their own models of a fold.

    A site that fails at that has the federation's model nevertheless, so nobody waits for it. One that is lost can come
    back as long as fewer than `min_clients` have answered, and later with ``--c``: what is done is not done again.

    Parameters
    ----------
    context
        What the federated training has worked with.
    description
        What it has agreed on; it is finished.
    failed
        Sites that have failed, and are not asked any more.
    """

    context: FoldContext
    description: RunDescription
    failed: set[str] = field(default_factory=set)

    def train(self) -> None:
        """Let each site train the models that the flags ask for, one after the other."""
        models = _epochs(self.context.settings, self.description.schedule)
        for model, epochs in models.items():
            self.context.sink.emit(StageStarted(stage=model, fold=str(self.description.fold)))
            changes = {"rounds": epochs, "local_epochs": 1, "proximal_mu": 0.0}
            asked = OwnTraining(
                fold=self.description.fold,
                run=self.description.run,
                model=model,
                schedule=self.description.schedule.model_copy(update=changes),
            )
            for site, trained in self._ask_all("train_own", asked, OwnTrained, f"{model} {epochs}").items():
                if trained.epochs is None:
                    logger.warning("Site %s could not train its %s model: see its node's output.", site, model)
        if self.description.fold == "all":
            logger.info("With fold_all every case trains, so there are no validation cases to compare models on.")
        elif models:
            self._compare(list(models))

    def _compare(self, models: list[OwnModel]) -> None:
        """Report each site's benefit from the federation."""
        fold, run = self.description.fold, self.description.run
        asked = GainRequest(fold=fold, run=run, models=models)
        told = self._ask_all("gain", asked, GainReport, f"gain {' '.join(models)}")
        hellos = {site.name: site.hello for site in self.context.registry.sites}
        sites = {name: of_own_labels(report, hellos[name]) for name, report in told.items()}
        self.context.sink.emit(GainTold(fold=str(fold), sites=sites))

    def _ask_all(self, kind: str, body: Message, answer: type[AnyMessage], what: str) -> dict[str, AnyMessage]:
        """Ask all sites, and return the answers of those that have one."""
        context = self.context
        participation = Participation(
            context.registry, context.min_clients, context.settings.give_up_after, context.sink
        )
        number, question = self.description.schedule.rounds, f"{self.description.run} {what}"
        answers: dict[str, AnyMessage] = {}
        failed = self.failed
        while True:
            there = participation.wait_for_quorum(number, self._check, {*answers, *failed})
            sites = [site for site in there if site.name not in {*answers, *failed}]
            ask = partial(Site.ask, kind=kind, body=body, answer=answer, id=question)
            told, failures = in_their_time(sites, ask, {*answers, *failed}, context)
            answers |= told
            failed.update(failure.site for failure in failures if not isinstance(failure, SiteLost))
            participation.leave_out(failures, number)
            if len(answers.keys() | failed) >= context.min_clients:
                return {name: answers[name] for name in sorted(answers)}

    def _check(self, site: Site) -> None:
        if site.name not in self.description.sites:
            raise FednnUNetError(f"site {site.name} has taken no part in this training")


def _epochs(settings: CoordinatorSettings, schedule: Schedule) -> dict[OwnModel, int]:
    """Return how many epochs each of the models is trained that are asked for, in order.

    A model that is trained alone gets those of the federation and, for equal work, those of the personal model.
    """
    found: dict[OwnModel, int] = {} if settings.personalize is None else {"personal": settings.personalize}
    return found | ({"alone": schedule.epochs + (settings.personalize or 0)} if settings.alone else {})


def in_their_time(
    sites: Sequence[Site], ask: partial[AnyMessage], before: set[str], context: FoldContext
) -> tuple[Mapping[str, AnyMessage], list[SiteFailure]]:
    """Ask sites a question without a time limit until the first answer.

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
    context
        How many are needed, and how long others may take.

    Returns
    -------
    The answers by site, and what went wrong.
    """
    done, finishing = set(before), threading.Lock()

    def hurry_others() -> None:
        for other in sites:
            other.hurry(context.settings.give_up_after)
            other.hurry(context.settings.round_timeout if len(done) >= context.min_clients else None)

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
