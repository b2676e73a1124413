"""Measures what masks cost in the search for a common fingerprint: bytes and milliseconds of a site.

``python benchmarks/masked_fingerprint.py DATASET [DATASET ...] [--sites 3 8 32]``

Measures all cases of datasets in ``nnUNet_raw`` once, shares them out over so many sites, and lets these answer the
questions of the exact fingerprint, plain and masked, within this process. Both must end in the same fingerprint.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.table import Table

from fednnunet.fingerprint.due import QuestionsDue, exact_questions
from fednnunet.fingerprint.fingerprint import Fingerprint
from fednnunet.fingerprint.integers import from_integers, widths_of
from fednnunet.fingerprint.measurement import CaseMeasurement, SiteMeasurement
from fednnunet.fingerprint.protocol import Protocol, exact_fingerprint, sum_of_answers
from fednnunet.fingerprint.questions import COUNTS, DigitsQuestion, MomentsQuestion
from fednnunet.fingerprint.sampling import samples_per_case
from fednnunet.node.counting import Counting, MaskedCounting
from fednnunet.node.dataset import case_files, find_dataset
from fednnunet.node.dataset_json import image_reader, read_raw_dataset_json
from fednnunet.node.extraction import Extraction, measure_files
from fednnunet.protocol.messages import Query
from fednnunet.protocol.secure_aggregation import SignedKeys
from fednnunet.secure_aggregation.attempts import Attempt, Rules
from fednnunet.secure_aggregation.integers import added, from_bytes
from fednnunet.security.identity import Identity, SiteList, listed_site

Asked = MomentsQuestion | DigitsQuestion
Sum = Callable[[Asked, Sequence[bytes]], np.ndarray]


class Run(NamedTuple):
    """A fingerprint, and what it has cost."""

    fingerprint: str
    questions: int
    kilobytes: float
    """Of the answers of one site."""
    answering: float
    """Seconds of one site."""
    adding: float
    """Seconds of the coordinator."""


def main() -> None:
    """Measure the cases, find the fingerprint both ways, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", help="numbers or names, of the same channels")
    parser.add_argument("--sites", type=int, nargs="+", default=[3, 8, 32])
    arguments = parser.parse_args()
    datasets = [find_dataset(name) for name in arguments.datasets]
    contents = [read_raw_dataset_json(dataset) for dataset in datasets]
    channels = len(contents[0].channels)
    files = [
        (of_case, content)
        for dataset, content in zip(datasets, contents, strict=True)
        for of_case in case_files(dataset, content.cases, content.file_ending, channels)
    ]
    samples = samples_per_case(len(files))
    cases = []
    for of_case, content in files:
        reader, labels = image_reader(content, of_case.images[0]), tuple(sorted(content.labels.numbers))
        cases.append(measure_files(of_case, Extraction(reader, channels, samples, labels)))
    table = Table(title=f"{len(cases)} cases, {channels} channels")
    for column in ("sites", "questions", "plain, kB", "masked, kB", "agree and join, ms", "masking, ms", "sums, ms"):
        table.add_column(column, justify="right")
    for sites in arguments.sites:
        table.add_row(str(sites), *_figures(cases, sites, channels, samples))
    Console().print(table)


def _figures(cases: Sequence[CaseMeasurement], sites: int, channels: int, samples: int) -> Iterator[str]:
    """Give the figures of a site, and of the coordinator's sums, for cases that are shared out over so many sites."""
    measured = [SiteMeasurement.of(cases[site::sites]) for site in range(sites)]
    plain = [Counting(site, QuestionsDue(exact_questions(len(cases), channels)), len(cases)) for site in measured]
    began = time.perf_counter()
    masking = _joined(measured, len(cases), channels)
    joining = (time.perf_counter() - began) / sites

    def sum_of_plain(_: Asked, terms: Sequence[bytes]) -> np.ndarray:
        return sum_of_answers([np.frombuffer(term, COUNTS) for term in terms])

    def sum_of_masked(question: Asked, terms: Sequence[bytes]) -> np.ndarray:
        widths = widths_of(question, channels)
        return from_integers(question, from_bytes(added(terms, widths), widths))

    before, after = (
        _run(countings, add, exact_fingerprint(len(cases), channels, samples, _target))
        for countings, add in ((plain, sum_of_plain), (masking, sum_of_masked))
    )
    assert before.fingerprint == after.fingerprint
    yield str(after.questions)
    yield from (f"{run.kilobytes:.1f}" for run in (before, after))
    yield from (f"{1000 * seconds:.1f}" for seconds in (joining, after.answering - before.answering, after.adding))


def _joined(measured: Sequence[SiteMeasurement], cases: int, channels: int) -> list[MaskedCounting]:
    """Return sites that have agreed on a sum, and joined it."""
    keys = {f"{number:03d}": Identity(Ed25519PrivateKey.generate()) for number in range(len(measured))}
    rules = Rules(SiteList([listed_site(name, identity) for name, identity in keys.items()]))
    sites = [MaskedCounting(site, QuestionsDue(exact_questions(cases, channels)), cases, rules) for site in measured]
    signed = [
        site.agree(Attempt(identity, name, {"cases": cases})).signed
        for site, (name, identity) in zip(sites, keys.items(), strict=True)
    ]
    for site in sites:
        site.join(SignedKeys(keys=signed))
    return sites


def _run(sites: Sequence[Counting], add: Sum, protocol: Protocol) -> Run:
    """Let sites answer all questions; what an answer and its masks have in common is worked out before."""
    questions, size, answering, adding = 0, 0, 0.0, 0.0
    query = Query(question=next(protocol))
    while True:
        terms = []
        for site in sites:
            site.measurement.answer(query.question)
            began = time.perf_counter()
            terms.append(site.answer(query, query.to_json()).data)
            answering += time.perf_counter() - began
        questions, size = questions + 1, size + sum(map(len, terms))
        began = time.perf_counter()
        total = add(query.question, terms)
        adding += time.perf_counter() - began
        try:
            query = Query(question=protocol.send(total))
        except StopIteration as end:
            fingerprint = json.dumps(end.value.to_nnunet())
            return Run(fingerprint, questions, size / len(sites) / 1000, answering / len(sites), adding)


def _target(fingerprint: Fingerprint) -> np.ndarray:
    """Return the median spacing, as planners do for images that are not anisotropic."""
    return np.median(fingerprint.spacings, axis=0)


if __name__ == "__main__":
    main()
