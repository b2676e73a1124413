"""Shows model quality: nnU-Net's validation, the sites' test cases, and the exported model."""

import shlex
from pathlib import PurePath

from markupsafe import Markup, escape

from fednnunet.evaluation.metrics import DIGITS, METRICS, MetricName
from fednnunet.events.events import FoldValidated, ModelExported, SitesEvaluated
from fednnunet.events.run_state import RunState
from fednnunet.folds import spelled
from fednnunet.protocol.messages import EvaluationReport, MetricSummary
from fednnunet.report.evaluation_tables import ALL_SITES, TITLES, over_all_sites
from fednnunet.report.formats import MEAN, MISSING, labels_of, mean, number, own_name
from fednnunet.report.gain_tables import HEADINGS, NOTE, gain_rows
from fednnunet.report.page.part import NOTHING, Part
from fednnunet.report.page.table import html_table
from fednnunet.wording import counted

_OVERALL = "all labels"


def validation_parts(run: RunState) -> list[Part]:
    """Return the part with nnU-Net's validation of the folds, if there is one."""
    tables = Markup("").join(_validation_table(event) for event in run.validated.values())
    text = Markup('<p class="note">Mean Dice over the validation cases of each site.</p>')
    return [Part("validation", "Validation", text + tables)] if run.validated else []


def gain_parts(run: RunState) -> list[Part]:
    """Return the part with what the federation gave each site, if models of their own were trained."""
    if not run.gains:
        return []
    tables = (
        html_table(
            ["site", "label", *HEADINGS],
            [
                [site, label, *cells]
                for site, report in event.sites.items()
                for label, cells in gain_rows(report, labels=True)
            ],
            caption=f"Fold {event.fold}: Dice",
            text_columns=(0, 1, len(HEADINGS) + 1),
        )
        for event in run.gains.values()
    )
    text = Markup('<p class="note">{}</p>').format(NOTE)
    return [Part("gain", "Benefit of the federation", text + Markup("").join(tables))]


def evaluation_parts(run: RunState) -> list[Part]:
    """Return the part with the sites' test cases, if they have been evaluated."""
    if not run.evaluated:
        return []
    text = Markup('<p class="note">{}</p>').format(
        "Mean ± standard deviation over the test cases of each site; below it the number of cases that have a value. "
        "A dash means too few cases. The last row covers the cases of all sites."
    )
    return [Part("evaluation", "Evaluation", text + Markup("").join(map(_evaluation, run.evaluated.values())))]


def export_parts(run: RunState) -> list[Part]:
    """Return the part that tells where the model is and how to use it, if it has been exported."""
    event = run.exported
    if event is None:
        return []
    lines = [
        f"nnUNetv2_install_pretrained_model_from_zip {shlex.quote(event.archive)}",
        f"nnUNetv2_predict -i IMAGES -o PREDICTIONS {_model_flags(event)}",
    ]
    text = Markup(
        '<dl class="facts wide"><div><dt>Archive</dt><dd>{}</dd></div><div><dt>Folder</dt><dd>{}</dd></div>'
        "<div><dt>Folds</dt><dd>{}</dd></div></dl><p>On any machine with nnU-Net:</p>"
        '<pre class="scroll" tabindex="0"><code>{}</code></pre>'
        "<p>To measure what the model tells about the cases of a site, at that site:</p>"
        '<pre class="scroll" tabindex="0"><code>fednnunet audit privacy DATASET_ID CONFIGURATION FOLD</code></pre>'
    ).format(event.archive, event.folder, ", ".join(event.folds), "\n".join(lines))
    if event.caution is not None:
        text += Markup('<p class="note">{}</p>').format(event.caution)
    return [Part("model", "Model", text)]


def _validation_table(event: FoldValidated) -> Markup:
    labels = labels_of(report.dice for report in event.sites.values())
    rows = [
        [site, *(number(report.dice.get(label), 4) for label in labels), number(report.mean_dice, 4)]
        for site, report in event.sites.items()
    ]
    reports = event.sites.values()
    means = [mean(report.dice.get(label) for report in reports) for label in labels]
    means.append(mean(report.mean_dice for report in reports))
    foot = [own_name(MEAN, event.sites), *(number(value, 4) for value in means)]
    headings = [own_name("site", labels), *labels, own_name("mean", labels)]
    return html_table(headings, rows, caption=f"Fold {event.fold}: Dice", foot=[foot])


def _evaluation(event: SitesEvaluated) -> Markup:
    parts = [Markup("<h3>{}, {}</h3>").format(spelled(event.fold, event.folds).capitalize(), event.checkpoint)]
    for metric in METRICS:
        table = _metric_table(event, metric)
        if table is not None:
            parts.append(table)
    if event.left_out:
        parts.append(html_table(["site", "reason for its absence"], list(event.left_out.items()), text_columns=(0, 1)))
    return Markup("").join(parts)


def _metric_table(event: SitesEvaluated, metric: MetricName) -> Markup | None:
    """Return the table of a metric: sites by labels; ``None`` where no site has measured it."""
    labels = list(dict.fromkeys(label for report in event.sites.values() for label in report.labels))

    def summaries(report: EvaluationReport) -> list[MetricSummary | None]:
        there = [report.overall, *(report.labels.get(label) for label in labels)]
        return [None if metrics is None else getattr(metrics, metric) for metrics in there]

    by_site = {site: summaries(report) for site, report in event.sites.items()}
    if not any(summary is not None for row in by_site.values() for summary in row):
        return None
    rows = [[site, *(_cell(summary, DIGITS[metric]) for summary in row)] for site, row in by_site.items()]
    foot = [
        own_name(ALL_SITES, event.sites),
        *(_cell(summary, DIGITS[metric]) for summary in summaries(over_all_sites(event.sites))),
    ]
    return html_table(
        [own_name("site", labels), own_name(_OVERALL, labels), *labels], rows, caption=TITLES[metric], foot=[foot]
    )


def _cell(summary: MetricSummary | None, digits: int) -> Markup:
    if summary is None or summary.mean is None:
        return escape(MISSING)
    spread = "" if summary.std is None else f" ± {summary.std:.{digits}f}"
    small = Markup("<small>{}</small>").format(counted(summary.cases, "case")) if summary.cases else NOTHING
    return escape(f"{number(summary.mean, digits)}{spread}") + small


def _model_flags(event: ModelExported) -> str:
    """Return nnU-Net's flags for the exported model, as far as its folder's name tells them."""
    folds = " ".join(shlex.quote(fold) for fold in event.folds)
    for path in (PurePath(event.folder), *PurePath(event.folder).parents):
        words = path.name.split("__")
        if len(words) == 3:
            trainer, plans, configuration = map(shlex.quote, words)
            dataset = shlex.quote(path.parent.name)
            return f"-d {dataset} -c {configuration} -f {folds} -tr {trainer} -p {plans}"
    return f"-d DATASET -c CONFIGURATION -f {folds}"
