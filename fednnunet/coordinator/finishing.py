"""The end of a fold's training: every site saves its final checkpoint and runs nnU-Net's full validation."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from fednnunet.coordinator.agreement import FoldContext, FoldTraining, agree
from fednnunet.coordinator.masked_figures import with_means
from fednnunet.coordinator.own_labels import of_own_labels
from fednnunet.coordinator.own_models import in_their_time
from fednnunet.coordinator.site import Site, SiteLate
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.events.events import FoldValidated, StageStarted
from fednnunet.protocol.messages import ValidationReport


def validate(training: FoldTraining) -> None:
    """Let sites finish; those that fail can come back as long as fewer than needed have finished.

    Raises
    ------
    FednnUNetError
        If a site that is needed takes too long.
    """
    context = training.context
    context.sink.emit(StageStarted(stage="validating", fold=str(context.fold)))
    reports: dict[str, ValidationReport] = {}
    while len(reports) < context.min_clients:
        sites = [site for site in training.wait_for_quorum(reports) if site.name not in reports]
        done, failures = _finish_at(context, sites, training.question_id("finish"), reports)
        context.participation.leave_out(failures, training.completed)
        reports |= done
        late = [failure.site for failure in failures if isinstance(failure, SiteLate)]
        if late and len(reports) < context.min_clients:
            raise FednnUNetError(
                f"{', '.join(late)} did not finish nnU-Net's full validation within --give_up_after "
                f"{context.settings.give_up_after:g} s after the first site: start the coordinator again with --c "
                "when they can, or with --min_clients to do without; the trained model is complete."
            )
    reports = with_means(training, training.schedule.rounds + 1, reports)
    context.folder.describe(training.description.model_copy(update={"finished": True}))
    _tell(context, {name: reports[name] for name in sorted(reports)})


def validate_only(context: FoldContext) -> None:
    """Let sites validate what they have trained before, as ``--val`` asks.

    Raises
    ------
    FednnUNetError
        If too few of them can.
    """
    context.participation.wait_for_all()
    description, *_ = agree(context)
    context.registry.allow(context.settings.round_timeout)
    context.sink.emit(StageStarted(stage="validating", fold=str(context.fold)))
    reports, failures = _finish_at(context, context.registry.sites, f"{description.run} finish", ())
    if len(reports) < context.min_clients:
        raise failures[0]
    _tell(context, reports)


def _finish_at(
    context: FoldContext, sites: Sequence[Site], id: str, before: Collection[str]
) -> tuple[Mapping[str, ValidationReport], list[SiteFailure]]:
    """Let sites finish, which takes as long as it takes: a full validation has another size than a round.

    Once the first one has finished, it waits for others: those that are needed get `--give_up_after` more, and once
    enough have finished, the rest no more than a round's time.
    """
    ask = partial(Site.ask, kind="finish", body=None, answer=ValidationReport, id=id)
    return in_their_time(sites, ask, set(before), context)


def _tell(context: FoldContext, reports: Mapping[str, ValidationReport]) -> None:
    hellos = {site.name: site.hello for site in context.registry.sites}
    told = {name: of_own_labels(report, hellos[name]) for name, report in reports.items()}
    context.sink.emit(FoldValidated(fold=str(context.fold), sites=told))
