"""``fednnunet audit privacy``: attacks a site's models with its own cases; nothing leaves the site."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from fednnunet.errors import FednnUNetError
from fednnunet.evaluation.gain import ModelName
from fednnunet.evaluation.prediction import Predictor, TrainedModel, evaluation_name
from fednnunet.folds import Fold
from fednnunet.membership.attack import Attack, attack, paired_attack
from fednnunet.membership.cases import AuditedSite, Membership, audited_site
from fednnunet.membership.scoring import CaseScore, mean_score, score_logits
from fednnunet.membership.settings import PrivacyAuditSettings
from fednnunet.node.hello import check_device

_OUTPUT = "nnunet_output.txt"


@dataclass(frozen=True)
class Audit:
    """What a model has given away.

    Attributes
    ----------
    trained, held_out
        Scores of the cases that the model was trained on, and of the others. Where it is paired, both are the same
        cases, with means over the models trained on a case, and over those that were not.
    paired
        Whether models of several folds were compared by case.
    """

    trained: Mapping[str, CaseScore]
    held_out: Mapping[str, CaseScore]
    paired: bool

    @cached_property
    def by_loss(self) -> Attack:
        """The attack by cross entropy."""
        return self._by("loss")

    @cached_property
    def by_dice(self) -> Attack:
        """The attack by Dice."""
        return self._by("dice_loss")

    def values(self, score: str) -> tuple[list[float], list[float]]:
        """Return a score of the trained and of the held-out cases that have it; the same cases where it is paired."""
        groups = [
            {case: getattr(scores, score) for case, scores in group.items()} for group in (self.trained, self.held_out)
        ]
        if self.paired:
            both = [case for case in groups[0] if all(group[case] is not None for group in groups)]
            groups = [{case: group[case] for case in both} for group in groups]
        trained, held_out = ([value for value in group.values() if value is not None] for group in groups)
        return trained, held_out

    def _by(self, score: str) -> Attack:
        return (paired_attack if self.paired else attack)(*self.values(score))


def audit_privacy(settings: PrivacyAuditSettings) -> tuple[dict[ModelName, Audit], Path]:
    """Attack the federated model of a site, and its own ones as far as there are any.

    Returns
    -------
    What each model has given away, and the folder for the report, which exists.

    Raises
    ------
    FednnUNetError
        If a dataset, model, or case is missing or damaged, or no case is held out.
    """
    site = audited_site(settings)
    members = {name: {fold: site.members(model, fold) for fold in model.folds} for name, model in site.models.items()}
    check_device(settings.device)
    folder = _output_folder(settings, site.models["federated"])
    console = Console(stderr=True)
    with Progress(console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal) as progress:
        cases = sum(fold.number for folds in members.values() for fold in folds.values())
        task = progress.add_task("Predicting", total=cases)
        audits = {
            name: _audit(settings, site, model, members[name], folder / _OUTPUT, lambda: progress.advance(task))
            for name, model in site.models.items()
        }
    return audits, folder


def _audit(
    settings: PrivacyAuditSettings,
    site: AuditedSite,
    model: TrainedModel,
    members: Mapping[Fold, Membership],
    log: Path,
    advance: Callable[[], None],
) -> Audit:
    """Predict one case after the other with one fold after the other, so that memory holds one of each."""
    trained: dict[str, list[CaseScore]] = {}
    held_out: dict[str, list[CaseScore]] = {}
    for fold, of_fold in members.items():
        predictor = _predictor(settings, replace(model, folds=(fold,)), log)
        groups = (of_fold.trained, trained, False), (of_fold.held_out, held_out, False), (of_fold.tests, held_out, True)
        for cases, group, are_tests in groups:
            for case in cases:
                image, truth = site.load(predictor, case, is_test=are_tests)
                logits = predictor.logits(image)
                score = score_logits(logits, predictor.segmentation(logits), truth, site.labels)
                group.setdefault(f"imagesTs/{case}" if are_tests else case, []).append(score)
                advance()
    paired = len(members) > 1
    if paired:
        both = trained.keys() & held_out.keys()
        trained, held_out = ({case: group[case] for case in sorted(both)} for group in (trained, held_out))
    first, second = ({case: mean_score(scores) for case, scores in group.items()} for group in (trained, held_out))
    return Audit(first, second, paired)


def _predictor(settings: PrivacyAuditSettings, model: TrainedModel, log: Path) -> Predictor:
    try:
        return Predictor(model, settings.device, log, mirror=settings.mirror)
    except Exception as error:  # torch and nnU-Net raise whatever a damaged file makes them stumble over
        raise FednnUNetError(
            f"{model.checkpoints[0]} cannot be read as a model of nnU-Net ({type(error).__name__}: {error}): restore "
            "it, or correct -chk."
        ) from error


def _output_folder(settings: PrivacyAuditSettings, model: TrainedModel) -> Path:
    """Return the folder for the report, and make it."""
    name = evaluation_name(settings.fold, settings.checkpoint).replace("evaluation", "privacy_audit", 1)
    folder = (settings.output or model.folder / name).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FednnUNetError(f"{folder} cannot be created ({error.strerror}): choose another with -o.") from error
    return folder
