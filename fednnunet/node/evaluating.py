"""The node of the task ``evaluate``."""

import argparse
import logging
from collections.abc import Mapping
from dataclasses import asdict

from fednnunet.background import Tracker
from fednnunet.channel.messages import EvaluationReport, EvaluationRequest, Hello, MetricSummaries, MetricSummary
from fednnunet.errors import CaseError, FednnUNetError
from fednnunet.evaluation.metrics import Scores, score_case
from fednnunet.evaluation.prediction import Predictor
from fednnunet.evaluation.summaries import Summary, rounded, summarize_cases, summarize_overall, write_cases
from fednnunet.labels import Labels
from fednnunet.node.dataset import CaseFiles, SiteDataset
from fednnunet.node.dataset_json import read_raw_dataset_json
from fednnunet.node.evaluation_input import evaluated_model, find_test_cases, results_folder
from fednnunet.node.site_client import SiteClient

logger = logging.getLogger(__name__)

TABLE = "cases.csv"
"""The metrics of every case, which stay at the site."""
_OUTPUT = "nnunet_output.txt"


class EvaluationClient(SiteClient):
    """Predicts the site's test cases, compares them with their labels, and tells aggregates over the cases.

    One evaluation is told of until the node is started again: many, with tolerances of the coordinator's choice, would
    say more than their means.
    """

    def __init__(self, arguments: argparse.Namespace, dataset: SiteDataset, hello: Hello) -> None:
        super().__init__(arguments, dataset, hello)
        self._request: EvaluationRequest | None = None
        self.answer("test", self._test)

    def _test(self, body: str, tracker: Tracker) -> EvaluationReport:
        request = EvaluationRequest.from_json(body)
        if self._request not in (None, request):
            raise FednnUNetError(
                "the coordinator asks for another evaluation than before: start the node again for another one"
            )
        self._request = request
        cases = self._evaluate(request.nsd_tolerance, tracker)
        if not cases:
            raise FednnUNetError("the coordinator asks for an evaluation, but this site has no labelled test cases")
        folder = results_folder(self.arguments, self.dataset)
        write_cases(folder / TABLE, cases)
        logger.info("Predictions and the metrics of every case are in %s.", folder)
        fewest = self.arguments.min_cases
        labels = list(next(iter(cases.values())))
        summaries = summarize_cases(cases, labels, fewest)
        return EvaluationReport(
            labels={label: _message(summary, request, fewest) for label, summary in summaries.items()},
            overall=_message(summarize_overall(cases, labels, fewest), request, fewest),
        )

    def _evaluate(self, nsd_tolerance: float | None, tracker: Tracker) -> dict[str, dict[str, Scores]]:
        arguments, dataset = self.arguments, self.dataset
        content = read_raw_dataset_json(dataset)
        cases, _ = find_test_cases(arguments, dataset, content)
        tracker.total = len(cases)
        folder = results_folder(arguments, dataset)
        folder.mkdir(parents=True, exist_ok=True)
        predictor = Predictor(
            evaluated_model(arguments, dataset),
            arguments.device,
            folder / _OUTPUT,
            mirror=not arguments.disable_tta,
            step_size=arguments.step_size,
        )
        scores = {}
        for case in cases:
            tracker.check()
            prediction = predictor.predict(case.images, folder / case.case)
            scores[case.case] = _score(predictor, case, str(prediction), content.labels, nsd_tolerance)
            tracker.done += 1
        return scores


def _score(
    predictor: Predictor,
    case: CaseFiles,
    prediction: str,
    labels: Labels,
    nsd_tolerance: float | None,
) -> dict[str, Scores]:
    truth, spacing = predictor.read(case.segmentation)
    predicted, _ = predictor.read(prediction)
    if truth.shape != predicted.shape:
        raise CaseError(case.case, "has labels of another shape than its image", "correct the labels, or remove it")
    return score_case(truth, predicted, labels, spacing, nsd_tolerance)


def _message(summaries: Mapping[str, Summary], request: EvaluationRequest, fewest: int) -> MetricSummaries:
    told = {metric: MetricSummary(**asdict(rounded(summary, metric, fewest))) for metric, summary in summaries.items()}
    if request.nsd_tolerance is None:
        del told["nsd"]
    return MetricSummaries(**told)
