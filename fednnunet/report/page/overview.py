"""Shows the state of a run, its sites and its failures."""

from markupsafe import Markup

from fednnunet.events.events import SiteLeftOut, SitesAwaited, UpdateOutOfLine
from fednnunet.events.run_state import RunState, Trouble
from fednnunet.report.formats import MISSING, duration, mean, number
from fednnunet.report.page.part import Part
from fednnunet.report.page.table import html_table
from fednnunet.report.standing import condition, stage_title
from fednnunet.schema import cleaned

_MOST_TROUBLES = 500
_LONGEST_REASON = 500


def overview_parts(run: RunState) -> list[Part]:
    """Return the part about the state of the run and its sites, if anything is known."""
    facts = {"State": condition(run)}
    last = run.last_round
    if last is not None:
        facts["Round"] = f"{last.round} of {last.rounds}"
        facts["Global pseudo Dice"] = number(mean(report.mean_dice for report in last.sites.values()), 4)
        facts["Last round"] = f"{last.seconds:.1f} s"
    if run.remaining is not None:
        facts["Time left"] = f"about {duration(run.remaining)}, at the speed of the last rounds"
    known = [cases for cases in run.sites.values() if cases is not None]
    facts["Sites"] = str(len(run.sites)) if run.sites else "none yet"
    if known:
        facts["Cases"] = str(sum(known))
    if run.troubles:
        facts["Failures"] = f"{len(run.troubles)}, see the table"
    text = Markup('<dl class="facts">{}</dl>').format(
        Markup("").join(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(name, fact) for name, fact in facts.items())
    )
    return [Part("overview", "Overview", text + _sites_table(run))]


def trouble_parts(run: RunState) -> list[Part]:
    """Return the part with all that has failed, if anything has."""
    if not run.troubles:
        return []
    shown = run.troubles[-_MOST_TROUBLES:][::-1]
    rows = [[_stage(trouble), trouble.round or MISSING, *_told(trouble)] for trouble in shown]
    title = f"{len(run.troubles)} in total, latest first"
    if len(shown) < len(run.troubles):
        title = f"The last {len(shown)} of {len(run.troubles)}, latest first"
    columns = ["stage", "round", "site", "what", "reason"]
    return [Part("failures", "Failures", html_table(columns, rows, caption=title, text_columns=(0, 2, 3, 4)))]


def _stage(trouble: Trouble) -> str:
    stage = trouble.stage
    if stage is None:
        return MISSING
    return f"fold {stage.fold}" if stage.stage == "training" else stage_title(stage)


def _told(trouble: Trouble) -> tuple[str, str, str]:
    """Return the sites of a trouble, what it is, and why."""
    match trouble.event:
        case SiteLeftOut(site=site, reason=reason):
            return site, "left out", cleaned(reason, _LONGEST_REASON)
        case UpdateOutOfLine(site=site, finding=finding):
            return site, "outlier update", f"its update {finding}"
        case SitesAwaited(sites=sites, present=present, needed=needed):
            return ", ".join(sites), "awaited", f"{present} of {needed} sites are ready"


def _sites_table(run: RunState) -> Markup:
    if not run.sites:
        return Markup("")
    last, shares = run.last_round, run.sharing.sites if run.sharing is not None else {}
    columns = ["site", "cases"]
    if last is not None:
        columns += ["train loss", "val loss", "pseudo Dice"]
    if shares:
        columns.append("shared parameters")
    rows = []
    for site in run.names:
        cases = run.sites[site]
        row: list[object] = [site, MISSING if cases is None else cases]
        if last is not None:
            report = last.sites.get(site)
            values = (None,) * 3 if report is None else (report.train_loss, report.val_loss, report.mean_dice)
            row += [number(value, 4) for value in values]
        if shares:
            share = shares.get(site)
            row.append(MISSING if share is None else f"{share.parameters:,} of {share.of_parameters:,}")
        rows.append(row)
    caption = "Sites" if last is None else f"Sites, with the losses and pseudo Dice of round {last.round}"
    return html_table(columns, rows, caption=caption)
