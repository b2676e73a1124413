"""The node of the tasks ``extract_fingerprint`` and ``plan_and_preprocess``.

What needs nnU-Net's planners or preprocessors, and so torch, imports them only then: it takes seconds, and measuring
does without.
"""

import contextlib
import inspect
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fednnunet.background import Tracker
from fednnunet.errors import FednnUNetError
from fednnunet.files import read_json, read_json_object, write_json
from fednnunet.fingerprint.coverage import EXTRACTOR
from fednnunet.fingerprint.due import Due, QuestionsDue, exact_questions, shared_cases_questions
from fednnunet.fingerprint.measurement import SiteMeasurement
from fednnunet.fingerprint.plans import (
    check_fingerprint,
    check_plans,
    check_resampling,
    data_digest,
    plans_digest,
    resolved,
)
from fednnunet.fingerprint.protocol import fingerprint_of
from fednnunet.fingerprint.questions import COUNTS
from fednnunet.fingerprint.sampling import samples_per_case
from fednnunet.nnunet_defaults import planner_environment, planning_class
from fednnunet.node.answered import ANSWERED_CASES, AnsweredCases
from fednnunet.node.dataset import SiteDataset, case_files
from fednnunet.node.dataset_json import DATASET_JSON, read_raw_dataset_json
from fednnunet.node.extraction import (
    KEPT_MEASUREMENT,
    Extraction,
    identity,
    load_measurement,
    measure_site,
    save_measurement,
)
from fednnunet.node.own_files import keep_own_fingerprint, keep_own_plans, write_fingerprint
from fednnunet.node.preprocessing import check_configurations, check_dimensions, preprocess, to_preprocess
from fednnunet.node.record import FINGERPRINT, read_record, write_record
from fednnunet.node.site_client import SiteClient, Work
from fednnunet.node.splits import SPLITS
from fednnunet.protocol.conversation import TRAIN, Answer
from fednnunet.protocol.messages import (
    CommonPlans,
    FederationRecord,
    FingerprintMode,
    Hello,
    Installed,
    Measure,
    Measured,
    PlanAlone,
    Query,
    SharedCases,
)
from fednnunet.secure_aggregation.attempts import Rules
from fednnunet.security.identity import Identity
from fednnunet.settings.node import PlanningSettings

_QUESTIONS: dict[FingerprintMode, Callable[[int, int], Due]] = {
    "exact": exact_questions,
    "shared-cases": shared_cases_questions,
}


class _Fingerprinting(NamedTuple):
    """What the site has measured, and what may be asked about it."""

    measurement: SiteMeasurement
    due: QuestionsDue


class PlanningClient(SiteClient):
    """Measures the site's cases, answers what is asked about them, installs plans, and preprocesses."""

    arguments: PlanningSettings

    def __init__(
        self,
        arguments: PlanningSettings,
        dataset: SiteDataset,
        hello: Hello,
        *,
        identity: Identity | None = None,
        rules: Rules | None = None,
    ) -> None:
        super().__init__(arguments, dataset, hello, identity=identity, rules=rules)
        self._fingerprinting: _Fingerprinting | None = None
        self._measured_alone: SiteMeasurement | None = None
        self._answered: AnsweredCases | None = None

    @property
    def answers(self) -> Mapping[str, Callable[[Work], Answer]]:
        """What works out the answers to this node's questions, by their kind."""
        return {
            "measure": self._measure,
            "cases": self._share_cases,
            TRAIN: self._count,
            "install": self._install,
            "plan_alone": self._plan_alone,
        }

    def _count(self, work: Work) -> Answer:
        """Answer a question about the measurement with one vector of integers."""
        question = work.read(Query).question
        self._measured.due.admit(question)
        return Answer(data=self._measured.measurement.answer(question).astype(COUNTS).tobytes())

    def tells_of_cases(self) -> None:
        """Remember the cases, against which those of a later run will be held."""
        if self._answered is not None:
            self._answered.remember()

    @property
    def _measured(self) -> _Fingerprinting:
        if self._fingerprinting is None:
            raise FednnUNetError("the coordinator asks about cases before the node has measured them")
        return self._fingerprinting

    def _measure(self, work: Work) -> Answer:
        cases, mode = work.read(Measure).cases, self.hello.fingerprint
        if mode is None:
            raise FednnUNetError("the coordinator asks for a common fingerprint, but this site plans for itself")
        if self._fingerprinting is not None and self._fingerprinting.due.has_begun:
            raise FednnUNetError(
                "the coordinator restarts the protocol, to ask more than one fingerprint needs: "
                "restart the node for another fingerprint"
            )
        if cases < self.hello.cases:
            raise FednnUNetError(
                f"the coordinator says that the federation has {cases} cases, but this site alone has "
                f"{self.hello.cases}: check that you trust its operator"
            )
        measurement = measure(self.arguments, self.dataset, self.hello, samples_per_case(cases), work.tracker)
        self._answered = _answered_cases(self.dataset)
        self.changed_cases = None if self._answered is None else self._answered.changed()
        questions = _QUESTIONS[mode](cases, len(self.hello.channels))
        self._fingerprinting = _Fingerprinting(measurement, QuestionsDue(questions))
        return Answer.of(Measured(is_two_dimensional=measurement.is_two_dimensional))

    def _share_cases(self, work: Work) -> Answer:
        if self.hello.fingerprint != "shared-cases":
            raise FednnUNetError("the coordinator asks for spacing and shape of each case, which is not shared here")
        measurement = self._measured.measurement
        shared = SharedCases(spacings=measurement.spacings.tolist(), shapes=measurement.shapes.tolist())
        return Answer.of(shared)

    def _install(self, work: Work) -> Answer:
        common = work.read(CommonPlans)
        check_common(common, self.hello)
        if common.plans is not None and not self.arguments.no_pp:
            check_configurations(self.arguments, common.plans, self.dataset)
            measurement = self._own_measurement(work.tracker)
            names = to_preprocess(self.arguments, common.plans)
            check_resampling(common.plans, names, measurement.spacings, measurement.shapes)
        if common.fingerprint is not None:
            write_fingerprint(common.fingerprint, self.dataset)
        if common.plans is None or common.record is None:
            return Answer.of(Installed())
        if common.fingerprint is None:
            self._prepare_given(common.plans, work.tracker)
        install_plans(common.plans, self.dataset)
        return self._preprocess(str(common.plans["plans_name"]), common.record, work.tracker)

    def _prepare_given(self, plans: dict[str, Any], tracker: Tracker) -> None:
        """Look whether the cases fit plans that were given, and have a fingerprint, which nnU-Net copies.

        It is the site's own, of which nothing is told: given plans do not depend on it.
        """
        measurement = self._own_measurement(tracker)
        check_dimensions(plans, self.arguments.configurations, is_two_dimensional=measurement.is_two_dimensional)
        if not (self.dataset.preprocessed / FINGERPRINT).is_file():
            samples = samples_per_case(self.hello.cases)
            write_fingerprint(fingerprint_of(measurement, samples).to_nnunet(), self.dataset)

    def _own_measurement(self, tracker: Tracker) -> SiteMeasurement:
        """Return what was measured for the federation, or else what is measured as if there were this site alone."""
        if self._fingerprinting is not None:
            return self._fingerprinting.measurement
        if self._measured_alone is None:
            samples = samples_per_case(self.hello.cases)
            self._measured_alone = measure(self.arguments, self.dataset, self.hello, samples, tracker)
        return self._measured_alone

    def _plan_alone(self, work: Work) -> Answer:
        federation = work.read(PlanAlone)
        if self.hello.method != "AsymFedAvg":
            raise FednnUNetError("the coordinator wants this site to plan for itself, which was started without --asym")
        samples = samples_per_case(self.hello.cases)
        if self.arguments.extractor == EXTRACTOR:
            measurement = measure(self.arguments, self.dataset, self.hello, samples, work.tracker)
            write_fingerprint(fingerprint_of(measurement, samples).to_nnunet(), self.dataset)
        else:
            keep_own_fingerprint(self.dataset)
            extract_with_nnunet(self.arguments, self.dataset)
        plans_name = plan_alone(self.hello, self.dataset)
        record = FederationRecord(
            method="AsymFedAvg",
            sites=federation.sites,
            cases=federation.cases,
            plans_digest=plans_digest(self._plans(plans_name)),
            versions=self.hello.versions,
        )
        return self._preprocess(plans_name, record, work.tracker)

    def _preprocess(self, plans_name: str, record: FederationRecord, tracker: Tracker) -> Answer:
        """Preprocess unless the user does not want it, and keep the record of plans that have just been installed."""
        before, plans = read_record(self.dataset, plans_name), self._plans(plans_name)
        is_same = before is not None and before.plans_digest == record.plans_digest
        if before is not None and is_same:
            kept, made = before.preprocessed, before.made
        else:
            kept = None
            made = (self.dataset.preprocessed / f"{plans_name}.json").stat().st_mtime  # by the clock of the data
        data = {} if before is None else before.data
        record = record.model_copy(update={"preprocessed": kept, "made": made, "data": data})
        write_record(self.dataset, plans_name, record)
        if not self.arguments.no_pp:
            check_configurations(self.arguments, plans, self.dataset)
            names = to_preprocess(self.arguments, plans)
            folders = {name: str(resolved(plans, name)["data_identifier"]) for name in names}
            begun = dict.fromkeys(folders.values(), "")  # whoever it was that has preprocessed what is there
            write_record(self.dataset, plans_name, record.model_copy(update={"data": data | begun}))
            preprocess(self.arguments, self.dataset, plans, self.hello.cases, tracker)
            data = data | {folder: data_digest(plans, name) for name, folder in folders.items()}
            record = record.model_copy(update={"preprocessed": sorted({*(kept or []), *names}), "data": data})
            write_record(self.dataset, plans_name, record)
        return Answer.of(Installed(plans_digest=plans_digest(plans)))

    def _plans(self, name: str) -> dict[str, Any]:
        return read_json_object(self.dataset.preprocessed / f"{name}.json", "start the task again")


def measure(
    arguments: PlanningSettings, dataset: SiteDataset, hello: Hello, samples: int, tracker: Tracker
) -> SiteMeasurement:
    """Measure all cases of a site, or take what an earlier task has measured on the same files.

    Raises
    ------
    FednnUNetError
        If a case cannot be used, or the dataset does not pass nnU-Net's check, if that is asked for.
    """
    if arguments.verify_dataset_integrity:
        _verify(dataset, arguments.extraction_processes)
    content = read_raw_dataset_json(dataset)
    cases = case_files(dataset, content.cases, content.file_ending, len(content.channels))
    labels = tuple(sorted(content.labels.numbers))
    extraction = Extraction(str(hello.image_reader), len(hello.channels), samples, labels)
    measured_on, kept = identity(cases, extraction), dataset.preprocessed / KEPT_MEASUREMENT
    measurement = None if arguments.clean else load_measurement(kept, measured_on)
    if measurement is None:
        measurement = measure_site(cases, extraction, arguments.extraction_processes, tracker)
        save_measurement(measurement, kept, measured_on)
    return measurement


def _answered_cases(dataset: SiteDataset) -> AnsweredCases | None:
    with contextlib.suppress(FednnUNetError):  # measuring, which has just read the same, has told what is wrong
        content = read_raw_dataset_json(dataset)
        cases = case_files(dataset, content.cases, content.file_ending, len(content.channels))
        return AnsweredCases(dataset.preprocessed / ANSWERED_CASES, cases)
    return None


def _verify(dataset: SiteDataset, processes: int) -> None:
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    try:
        verify_dataset_integrity(str(dataset.raw), processes)
    except Exception as error:  # it raises AssertionError, RuntimeError and what readers raise
        raise FednnUNetError(
            "nnU-Net's --verify_dataset_integrity has found a fault, see the node's own output: correct the dataset"
        ) from error


def extract_with_nnunet(arguments: PlanningSettings, dataset: SiteDataset) -> None:
    """Let the extractor class that the user named write the fingerprint; never takes one that stands there."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset

    extract_fingerprint_dataset(
        dataset.id,
        planning_class(arguments.extractor),
        arguments.extraction_processes,
        check_dataset_integrity=arguments.verify_dataset_integrity,
        clean=True,
        verbose=arguments.verbose,
        show_progress_bar=not arguments.no_pbar,
    )


def plan_alone(hello: Hello, dataset: SiteDataset) -> str:
    """Let nnU-Net's planner plan for this site's own fingerprint, and return the name of the plans.

    Raises
    ------
    FednnUNetError
        If the planner fails.
    """
    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset

    options = hello.planner
    if options is None:
        raise FednnUNetError("only plan_and_preprocess plans")
    planner: Any = planning_class(options.planner)
    default = inspect.signature(planner).parameters.get("plans_name")
    keep_own_plans(dataset, options.plans_name or str(default.default if default else ""))
    try:
        with planner_environment():
            _, name = plan_experiment_dataset(
                dataset.id,
                planner,
                options.gpu_memory_target,
                options.preprocessor,
                options.target_spacing,
                options.plans_name,
            )
    except Exception as error:
        raise FednnUNetError(
            f"{options.planner} cannot plan for this site ({type(error).__name__}: {error}): "
            "check spacings and shapes of its images"
        ) from error
    return str(name)


def check_common(common: CommonPlans, hello: Hello) -> None:
    """Refuse a fingerprint and plans that the site was not started for, or with which nnU-Net could do harm.

    Raises
    ------
    FednnUNetError
        Says what is wrong; nothing has been written.
    """
    if hello.method != "FFE":
        raise FednnUNetError("the coordinator sends a common fingerprint, but this site has --asym: start both alike")
    if common.fingerprint is not None:
        check_fingerprint(common.fingerprint)
    if common.plans is None or common.record is None:
        if common.fingerprint is None:
            raise FednnUNetError("the coordinator sends neither a fingerprint nor plans")
        return
    if hello.planner is None:
        raise FednnUNetError("the coordinator sends plans, but this site was started for the fingerprint only")
    check_plans(common.plans, hello.planner.plans_name, {hello.planner.preprocessor})
    if plans_digest(common.plans) != common.record.plans_digest:
        raise FednnUNetError("the common plans were altered in transit: start the task again")


def install_plans(plans: dict[str, object], dataset: SiteDataset) -> None:
    """Put common plans, ``dataset.json`` and, if the site brings one, its split where nnU-Net looks for them.

    Nothing in the plans changes but the name of the dataset.

    Raises
    ------
    FednnUNetError
        If the split in the raw folder is not the one that preprocessing has used before.
    """
    brought, used = dataset.raw / SPLITS, dataset.preprocessed / SPLITS
    if brought.is_file() and used.is_file():
        wanted, kept = (read_json(path, "move it away") for path in (brought, used))
        # folds may have been added to the one that is used
        if not isinstance(wanted, list) or not isinstance(kept, list) or wanted != kept[: len(wanted)]:
            raise FednnUNetError(f"{brought} and {used} define different folds: move the outdated one away.")
    elif brought.is_file():
        used.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(brought, used)
    name = str(plans["plans_name"])
    keep_own_plans(dataset, name, plans)
    write_json({**plans, "dataset_name": dataset.name}, dataset.preprocessed / f"{name}.json")
    shutil.copyfile(dataset.raw / DATASET_JSON, dataset.preprocessed / DATASET_JSON)
