"""Agreement on the training of a fold: with all sites on a new one, or with what the run folder holds of an old one."""

import logging
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fednnunet.coordinator.asking import ask_all
from fednnunet.coordinator.common_model import why_there_is_none
from fednnunet.coordinator.exchange import Averaging, Exchange
from fednnunet.coordinator.masked_exchange import MaskedExchange, MaskedTraining
from fednnunet.coordinator.participation import Participation
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.coordinator.run_folder import CanGoOnError, FoldFolder, RunDescription, SharedTensors
from fednnunet.coordinator.schedule import agreed_schedule, check_unchanged
from fednnunet.coordinator.site import Site, SiteLost
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.events.events import EventSink, SharingAgreed, SiteShare, StageStarted
from fednnunet.folds import Fold
from fednnunet.protocol.messages import FoldRequest, Method, Ready, Schedule, Start, TrainingOffer
from fednnunet.secure_aggregation.attempts import FEWEST_SITES
from fednnunet.secure_aggregation.contexts import TrainingFacts
from fednnunet.security.identity import SiteList
from fednnunet.settings.coordinator import CoordinatorSettings
from fednnunet.weights.layout import Layout, TensorSpec
from fednnunet.weights.sharing import NORM, Group, share

logger = logging.getLogger(__name__)


@dataclass
class FoldContext:
    """What the training of a fold works with, whatever is agreed.

    Attributes
    ----------
    fold
        The fold to train.
    settings
        The coordinator's.
    run_dir
        Folder of the training.
    min_clients
        Sites without which no round is completed.
    registry
        The sites.
    sink
        Takes what happens.
    listed
        The list of sites, if updates are summed under masks.
    folder
        Where the training is kept.
    participation
        Who has which model.
    """

    fold: Fold
    settings: CoordinatorSettings
    run_dir: Path
    min_clients: int
    registry: ClientRegistry
    sink: EventSink
    listed: SiteList | None = None
    folder: FoldFolder = field(init=False)
    participation: Participation = field(init=False)

    def __post_init__(self) -> None:
        self.folder = FoldFolder.of(self.run_dir, self.fold)
        self.participation = Participation(self.registry, self.min_clients, self.settings.give_up_after, self.sink)


@dataclass
class FoldTraining:
    """A training that is agreed on.

    Attributes
    ----------
    context
        What it works with.
    description
        What was agreed.
    exchange
        The global models.
    completed
        Rounds that are complete.
    is_model_asked
        Whether sites have been asked how the network is built.
    repeats
        How often a round began anew because the sum of its masked updates was not opened.
    """

    context: FoldContext
    description: RunDescription
    exchange: Exchange
    completed: int = 0
    is_model_asked: bool = False
    repeats: int = 0

    @property
    def schedule(self) -> Schedule:
        """The numbers that hold for every node."""
        return self.description.schedule

    def question_id(self, what: str) -> str:
        """Name a question so that it is the same one when it is asked again, by another coordinator too."""
        return f"{self.description.run} {what}"

    def wait_for_quorum(self, done: Collection[str] = ()) -> list[Site]:
        """Return the sites that have the current global model, once they are enough; see `Participation`."""
        return self.context.participation.wait_for_quorum(self.completed, self._prepare, done)

    def begin_round_anew(self) -> None:
        """Let all sites train the round once more: their updates were opened, and may be in no other sum."""
        self.repeats += 1
        self.context.folder.forget_keys()
        self.context.participation.forget_models()

    def _prepare(self, site: Site) -> None:
        """Bring a site to where the training is."""
        site.allow(self.context.settings.round_timeout)
        description = self.description
        if site.name not in description.sites:
            names = ", ".join(description.sites)
            raise FednnUNetError(f"site {site.name} does not belong to this training of {names}")
        if description.plans.get(site.name) != site.hello.plans_digest:
            raise FednnUNetError("its plans have changed since the training started: restore them")
        ready = self._start(site)
        if ready.is_opened and not self.exchange.can_open(self.completed + 1):
            self.repeats += 1
            ready = self._start(site)
        tensors = set(ready.tensors)
        mine = [group.layout.tensors for group in description.groups if site.name in group.sites]
        missing = [tensor.name for shared in mine for tensor in shared if tensor not in tensors]
        if missing:
            raise FednnUNetError(f"its network lacks the tensor {missing[0]}, which it had when the training started")
        weighs_cases = self.context.listed is not None and self.context.settings.weighting == "cases"
        if weighs_cases and ready.training_cases != description.sites[site.name]:
            raise FednnUNetError(
                f"it has {ready.training_cases} training cases, and had {description.sites[site.name]} when the "
                "training started, which must stay so for masked sums: restore them"
            )
        if not ready.has_model:
            self.exchange.send_model(site, self.completed)
        if self.completed and not ready.restored and self.schedule.optimizer_state == "local":
            logger.warning("Site %s continues without the state of its optimizer.", site.name)

    def _start(self, site: Site) -> Ready:
        description = self.description
        start = Start(
            fold=description.fold,
            schedule=self.schedule,
            run=description.run,
            completed=self.completed,
            repeats=self.repeats,
        )
        # an id of its own: a node that was late goes on with what it is doing when it is asked again
        return site.ask("start", start, Ready, id=self.question_id(f"start {self.completed} {self.repeats}"))


def kept_description(context: FoldContext) -> RunDescription | None:
    """Return the training that is kept, if any; a damaged one is set aside if it is to be replaced.

    Raises
    ------
    CanGoOnError
        If it cannot be read, and shall not be replaced.
    """
    try:
        return context.folder.description()
    except FednnUNetError as error:
        if not context.settings.overwrite:
            raise CanGoOnError(str(error)) from error
        context.folder.set_aside()  # its models may be intact
        return None


def resume(context: FoldContext, kept: RunDescription) -> FoldTraining:
    """Go on with a training from the last complete round of which there is a model.

    Raises
    ------
    CanGoOnError
        If it was begun with other flags, or cannot be read: it can be continued once that is mended here.
    """
    try:
        return _resumed(context, kept)
    except FednnUNetError as error:
        raise CanGoOnError(str(error)) from error


def _resumed(context: FoldContext, kept: RunDescription) -> FoldTraining:
    settings, folder = context.settings, context.folder
    check_unchanged(settings, kept.schedule)
    if kept.averaging != averaging_of(settings) or {"secure": False} | kept.flags != other_flags(settings):
        raise FednnUNetError(
            f"The training was started with other flags for aggregation ({kept.averaging}, "
            f"{kept.flags}): continue it with the same."
        )
    schedule = kept.schedule.model_copy(update={"save_every": settings.save_every})
    description = kept.model_copy(update={"schedule": schedule})
    folder.describe(description)  # one of its two files may be lost
    exchange = exchange_of(context, kept)
    done = folder.last_complete()
    completed, state = folder.last_model(done)
    if completed < done:
        logger.warning("Repeating rounds %d to %d, whose models were not saved.", completed + 1, done)
    folder.forget_after(completed)
    exchange.restore(state)
    return FoldTraining(context, description, exchange, completed)


def begin(context: FoldContext, kept: RunDescription | None) -> FoldTraining:
    """Agree with all sites on a new training, and give all that share a tensor the same one to start from.

    Parameters
    ----------
    context
        What it works with.
    kept
        The training that it replaces.

    Raises
    ------
    FednnUNetError
        If the sites do not agree, or one fails.
    """
    if context.settings.resume:
        logger.warning("No training of fold %s in %s to continue: starting it.", context.fold, context.folder.path)
    context.participation.wait_for_all()
    while True:
        context.registry.allow(context.settings.give_up_after)  # nothing begins without any one of them
        try:
            description, layouts, preferred = agree(context)
            exchange = exchange_of(context, description)
            exchange.initialize({site.name: site for site in context.registry.sites}, preferred)
            break
        except SiteLost as lost:
            context.participation.leave_out([lost], 0)
            context.participation.wait_for_all()
    context.sink.emit(_shares(layouts, description.groups))
    if kept is not None and kept.finished:
        context.folder.set_aside()
    context.folder.begin(description, exchange.state)
    return FoldTraining(context, description, exchange)


def agree(context: FoldContext) -> tuple[RunDescription, dict[str, Layout], list[str]]:
    """Let all sites get ready; return what they agree on, their networks, and who brings a pretrained model.

    Raises
    ------
    FednnUNetError
        If they do not agree, or one fails.
    """
    sites, hellos, settings = context.registry.sites, context.registry.hellos, context.settings
    for site in sites:
        site.renew()
    context.sink.emit(StageStarted(stage="preparing", fold=str(context.fold)))
    offers = ask_all(sites, "offer", FoldRequest(fold=context.fold), TrainingOffer)
    schedule, run = agreed_schedule(settings, offers), uuid.uuid4().hex
    ready = ask_all(sites, "start", Start(fold=context.fold, schedule=schedule, run=run, completed=0), Ready)
    layouts = {site: Layout(tuple(answer.tensors)) for site, answer in ready.items()}
    for site in sites:
        if ready[site.name].training_cases > site.hello.cases:
            raise SiteFailure(site.name, f"it reports more than its {site.hello.cases} cases")
    _check_layouts(layouts, hellos[0].method)
    groups = share(
        layouts,
        fewest=2 if context.listed is None else FEWEST_SITES,
        cohorts=settings.asym_cohorts,
        keep_local=settings.keep_local,
        normalization={site: answer.normalization for site, answer in ready.items()},
    )
    by_cases = settings.weighting == "cases"
    description = RunDescription(
        run=run,
        fold=context.fold,
        sites={site: answer.training_cases if by_cases else 1 for site, answer in ready.items()},
        plans={hello.site: hello.plans_digest for hello in hellos},
        models=sorted({hello.model for hello in hellos if hello.model is not None}),
        schedule=schedule,
        averaging=averaging_of(settings),
        flags=other_flags(settings),
        shared=[SharedTensors(sites=list(g.sites), tensors=list(g.layout.tensors)) for g in groups],
        at_end=_averaged_at_end(context, groups, next(iter(layouts.values()))),
    )
    # a pretrained model, where only some sites have it, is the one to start from
    return description, layouts, [site for site, answer in ready.items() if answer.pretrained]


def exchange_of(context: FoldContext, description: RunDescription) -> Exchange:
    """Return the global models of a training, which are made of updates, or of masked sums of these."""
    groups, at_end = description.groups, Layout(tuple(description.at_end))
    if context.listed is None:
        return Exchange(groups, description.averaging, at_end)
    facts = TrainingFacts(description.run, description.fold, context.listed.digest)
    by_cases = context.settings.weighting == "cases"
    training = MaskedTraining(facts, context.listed, description.sites, by_cases, context.folder)
    return MaskedExchange(groups, description.averaging, at_end, training)


def averaging_of(settings: CoordinatorSettings) -> Averaging:
    """Return how weights travel and are aggregated."""
    return Averaging(
        encoding=settings.encoding,
        aggregation=settings.aggregation,
        server_optimizer=settings.server_optimizer,
        server_lr=settings.server_lr,
    )


def other_flags(settings: CoordinatorSettings) -> dict[str, str | bool | None]:
    """Return the flags for averaging that are not in `averaging_of`, by name."""
    names = ("weighting", "keep_local", "asym_cohorts", "secure")
    return {name: getattr(settings, name) for name in names}


def of_weights(groups: Sequence[Group]) -> int:
    """Return how many of the groups share weights, and not what their optimizers remember."""
    return sum(not group.layout.is_of_optimizer for group in groups)


def _averaged_at_end(context: FoldContext, groups: Sequence[Group], network: Layout) -> list[TensorSpec]:
    """Return which tensors stay at the sites, but for their mean in the model that is exported, if there is one."""
    keep_local = context.settings.keep_local
    if keep_local != NORM or why_there_is_none(context.registry.hellos, of_weights(groups), keep_local) is not None:
        return []
    shared = set(groups[0].layout.tensors)
    return [tensor for tensor in network.tensors if not tensor.is_of_optimizer and tensor not in shared]


def _check_layouts(layouts: dict[str, Layout], method: Method) -> None:
    """Refuse different networks where all sites have the same plans."""
    first, *others = layouts
    for other in others:
        if method == "FFE" and layouts[other].digest != layouts[first].digest:
            raise FednnUNetError(
                f"The network of site {other} differs from that of site {first}: use the same plans and trainer."
            )


def _shares(layouts: dict[str, Layout], groups: Sequence[Group]) -> SharingAgreed:
    shares = {}
    for site, layout in layouts.items():
        mine = [group.layout for group in groups if site in group.sites and not group.layout.is_of_optimizer]
        own = [tensor for tensor in layout.tensors if not tensor.is_of_optimizer]
        shares[site] = SiteShare(
            tensors=sum(len(part.tensors) for part in mine),
            of_tensors=len(own),
            parameters=sum(part.size for part in mine),
            of_parameters=Layout(tuple(own)).size,
        )
    return SharingAgreed(sites=shares)
