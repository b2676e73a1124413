"""Means of losses and Dice over sites that tell their own only as terms of masked sums."""

import logging
from collections.abc import Mapping, Sequence
from typing import TypeVar

from fednnunet.coordinator.agreement import FoldTraining
from fednnunet.coordinator.asking import for_all
from fednnunet.coordinator.masked_sums import agree_on_sum
from fednnunet.coordinator.site import Site
from fednnunet.errors import FednnUNetError
from fednnunet.protocol.conversation import Question
from fednnunet.protocol.messages import RoundReport, ValidationReport
from fednnunet.protocol.secure_aggregation import FIGURES, FiguresRequest, SumRequest
from fednnunet.secure_aggregation.attempts import FEWEST_SITES
from fednnunet.secure_aggregation.contexts import TrainingFacts
from fednnunet.secure_aggregation.figures import figures_context, from_sums, widths_of
from fednnunet.secure_aggregation.integers import added, from_bytes

logger = logging.getLogger(__name__)

Report = TypeVar("Report", RoundReport, ValidationReport)
_WITHOUT_FIGURES = ("background", "ignore")


def with_means(training: FoldTraining, round_number: int, reports: Mapping[str, Report]) -> dict[str, Report]:
    """Return reports in which sites that hide their figures have the mean over all of these.

    Parameters
    ----------
    training
        The training.
    round_number
        The round; one more than the last for the full validation.
    reports
        What each site says openly.
    """
    sites = [site for site in training.context.registry.sites if site.name in reports and site.hello.hides_figures]
    if not sites:
        return dict(reports)
    if len(sites) < FEWEST_SITES:
        logger.warning("Figures of fewer than %d sites are not summed.", FEWEST_SITES)
        return dict(reports)
    kind = type(reports[sites[0].name])
    try:
        mean = _mean(training, round_number, sites, is_round=kind is RoundReport)
        assert isinstance(mean, kind)
    except FednnUNetError as error:
        logger.warning("There are no losses and no Dice of round %d: %s", round_number, error)
        return dict(reports)
    if round_number == 1:
        names = ", ".join(site.name for site in sites)
        logger.info("Losses and Dice of %s are means over them: none tells its own.", names)
    return {**reports, **{site.name: mean for site in sites}}


def _mean(
    training: FoldTraining, round_number: int, sites: Sequence[Site], *, is_round: bool
) -> RoundReport | ValidationReport:
    context, description = training.context, training.description
    assert context.listed is not None, "a site hides its figures from a coordinator that asks for plain ones"
    labels = [label for label in sites[0].hello.labels if label not in _WITHOUT_FIGURES]
    request = SumRequest(purpose="figures", round=round_number, total=len(sites))
    facts = TrainingFacts(description.run, description.fold, context.listed.digest)
    agree_on_sum(sites, context.listed, request, figures_context(facts, request))
    question = Question.of(FIGURES, FiguresRequest(round=round_number, labels=labels))
    widths = widths_of(labels, is_round=is_round)
    answers = for_all(sites, lambda site: site.answer(question))
    sums = from_bytes(added([answer.data for answer in answers], widths), widths)
    if any(not 0 <= number <= len(sites) for number in sums[1::2]):
        raise FednnUNetError("the sites' masks do not cancel")
    return from_sums(sums, labels, is_round=is_round)
