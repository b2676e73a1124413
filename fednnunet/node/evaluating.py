"""The node of the task ``evaluate``."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

import numpy as np

from fednnunet.background import Tracker
from fednnunet.errors import CaseError, FednnUNetError
from fednnunet.evaluation.metrics import MetricName, Scores, score_case
from fednnunet.evaluation.prediction import Predictor
from fednnunet.evaluation.summaries import Summary, rounded, summarize_cases, summarize_overall, write_cases
from fednnunet.node.case_reading import read_images, read_segmentation
from fednnunet.node.dataset import CaseFiles, SiteDataset
from fednnunet.node.dataset_json import read_raw_dataset_json
from fednnunet.node.evaluation_input import evaluated_model, find_test_cases, results_folder
from fednnunet.node.site_client import SiteClient, Work
from fednnunet.protocol.conversation import Answer
from fednnunet.protocol.messages import EvaluationReport, EvaluationRequest, Hello, MetricSummaries, MetricSummary
from fednnunet.security.identity import Identity
from fednnunet.settings.node import EvaluationSettings

logger = logging.getLogger(__name__)

TABLE = "cases.csv"
"""The metrics of every case, which stay at the site."""
_OUTPUT = "nnunet_output.txt"


class EvaluationClient(SiteClient):
    """Predicts the site's test cases, compares them with their labels, and tells aggregates over the cases.

    One evaluation is told of until the node is started again: many, with tolerances of the coordinator's choice, would
    say more than their means.
    """

    arguments: EvaluationSettings

    def __init__(
        self,
        arguments: EvaluationSettings,
        dataset: SiteDataset,
        hello: Hello,
        *,
        identity: Identity | None = None,
    ) -> None:
        super().__init__(arguments, dataset, hello, identity=identity)
        self._request: EvaluationRequest | None = None

    @property
    def answers(self) -> Mapping[str, Callable[[Work], Answer]]:
        """What works out the answers to this node's questions, by their kind."""
        return {"test": self._test}

    def _test(self, work: Work) -> Answer:
        request = work.read(EvaluationRequest)
        if self._request not in (None, request):
            raise FednnUNetError("the coordinator asks for a different evaluation: restart the node for another one")
        self._request = request
        cases = self._evaluate(request.nsd_tolerance, work.tracker)
        if not cases:
            raise FednnUNetError("the coordinator asks for an evaluation, but this site has no labelled test cases")
        folder = results_folder(self.arguments, self.dataset)
        write_cases(folder / TABLE, cases)
        logger.info("Predictions and the metrics of every case are in %s.", folder)
        fewest = self.arguments.min_cases
        labels = list(next(iter(cases.values())))
        summaries = summarize_cases(cases, labels, fewest)
        report = EvaluationReport(
            labels={label: _message(summary, request, fewest) for label, summary in summaries.items()},
            overall=_message(summarize_overall(cases, labels, fewest), request, fewest),
        )
        return Answer.of(report)

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
        scores, otherwise_sized = {}, 0
        for case in cases:
            tracker.check()
            reader = predictor.reader
            spacing = read_images(reader, case, len(content.channels)).spacing
            prediction = predictor.predict(case.images, folder / case.case)
            truth = read_segmentation(reader, case)
            predicted = read_segmentation(reader, replace(case, segmentation=str(prediction))).array[0]
            if truth.array[0].shape != predicted.shape:
                raise CaseError(
                    case.case, "has labels of another shape than its image", "correct the labels, or remove it"
                )
            otherwise_sized += _tell_spacing(case) and not np.allclose(truth.spacing, spacing)
            scores[case.case] = score_case(truth.array[0], predicted, content.labels, spacing, nsd_tolerance)
            tracker.done += 1
        if otherwise_sized:
            logger.warning(
                "The labels of %d of %d test cases have another voxel size than their images; distances are in mm of "
                "the images, as in nnU-Net.",
                *(otherwise_sized, len(cases)),
            )
        return scores


def _tell_spacing(case: CaseFiles) -> bool:
    """Return whether the labels tell the size of their voxels: a TIFF file alone does not."""
    return not case.spacing_files or os.path.isfile(case.spacing_files[-1])


def _message(summaries: Mapping[MetricName, Summary], request: EvaluationRequest, fewest: int) -> MetricSummaries:
    told: dict[str, MetricSummary] = {
        metric: MetricSummary(**asdict(rounded(summary, metric, fewest))) for metric, summary in summaries.items()
    }
    if request.nsd_tolerance is None:
        del told["nsd"]
    return MetricSummaries(**told)
