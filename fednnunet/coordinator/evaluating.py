"""Evaluation: every site tests its model on its own cases and reports aggregates."""

import logging
from pathlib import Path

from fednnunet.coordinator.asking import ask_each
from fednnunet.coordinator.own_labels import of_own_labels
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.evaluation.prediction import CHECKPOINT
from fednnunet.events.events import EventSink, SitesEvaluated, StageStarted
from fednnunet.events.sinks import tell_progress
from fednnunet.protocol.messages import EvaluationReport, EvaluationRequest
from fednnunet.report.evaluation_tables import write_evaluation

logger = logging.getLogger(__name__)

_NO_CASES = "it has no test cases with labels"


def evaluate(request: EvaluationRequest, run_dir: Path | None, registry: ClientRegistry, sink: EventSink) -> None:
    """Let all sites that have labelled test cases evaluate at the same time, and write down what they tell.

    A site that fails, or withholds its figures, is left out.

    Parameters
    ----------
    request
        What is asked.
    run_dir
        Folder for the results, ``None`` for none.
    registry
        The sites.
    sink
        Takes what happens.

    Raises
    ------
    FednnUNetError
        If no site could evaluate, or the results cannot be written.
    """
    sites, facts = registry.sites, registry.hellos[0]
    left_out = {site.name: _NO_CASES for site in sites if not site.hello.cases}
    able = [site for site in sites if site.hello.cases]
    if not able:
        raise FednnUNetError("No site has test cases with labels: add them to imagesTs and labelsTs of a dataset.")
    sink.emit(StageStarted(stage="testing"))
    reports, failures = ask_each(able, "test", request, EvaluationReport, tell_progress(sink))
    for site in able:
        if site.name in reports and not _can_be(reports[site.name], site.hello.cases):
            del reports[site.name]
            failures.append(SiteFailure(site.name, f"it reports more than its {site.hello.cases} cases"))
    for failure in failures:
        logger.warning("Without site %s: %s.", failure.site, failure.reason)
        left_out[failure.site] = failure.reason
    if not reports:
        raise FednnUNetError(f"No site could evaluate; {failures[0]}")
    hellos = {site.name: site.hello for site in able}
    reports = {name: of_own_labels(report, hellos[name]) for name, report in reports.items()}
    checkpoint = facts.evaluation.checkpoint if facts.evaluation is not None else CHECKPOINT
    numbers = {site.hello.folds for site in sites if site.name in reports}
    event = SitesEvaluated(
        fold=str(facts.fold),
        folds=numbers.pop() if len(numbers) == 1 else None,
        checkpoint=checkpoint,
        sites=reports,
        left_out=left_out,
    )
    if run_dir is not None:
        files = write_evaluation(run_dir, event, request.nsd_tolerance)
        logger.info("The results are in %s.", files)
    sink.emit(event)


def _can_be(report: EvaluationReport, cases: int) -> bool:
    """Return whether a report can be one over this many cases."""
    return all(summaries.cases <= cases for summaries in (*report.labels.values(), report.overall))
