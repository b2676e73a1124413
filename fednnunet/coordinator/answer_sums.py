"""Sums over sites of their answers about cases: of plain ones, which are checked one by one, or of masked ones."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from fednnunet.coordinator.site import Site, blamed_on
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.fingerprint.integers import from_integers, widths_of
from fednnunet.fingerprint.plausibility import AnswersOfSite
from fednnunet.fingerprint.protocol import sum_of_answers
from fednnunet.fingerprint.questions import COUNT_BYTES, COUNTS, DigitsQuestion, MomentsQuestion
from fednnunet.protocol.conversation import Answer
from fednnunet.secure_aggregation.integers import added, from_bytes


class AnswerSums(Protocol):
    """Adds up the sites' answers."""

    def total(self, question: MomentsQuestion | DigitsQuestion, answers: Mapping[Site, Answer]) -> np.ndarray:
        """Return the sum over sites of their answers to a question: int64, one dimension.

        Raises
        ------
        FednnUNetError
            If an answer, or the sum, cannot be true.
        """


class PlainSums:
    """Adds up answers that can be read, once each of them was checked.

    Parameters
    ----------
    of_sites
        What is known of each site's answers, by its name.
    """

    def __init__(self, of_sites: Mapping[str, AnswersOfSite]) -> None:
        self._of_sites = of_sites

    def total(self, question: MomentsQuestion | DigitsQuestion, answers: Mapping[Site, Answer]) -> np.ndarray:
        """Return the sum of the answers; see `AnswerSums`. A `SiteFailure` names the site whose answer is wrong."""
        return sum_of_answers([self._checked(question, site, answer) for site, answer in answers.items()])

    def _checked(self, question: MomentsQuestion | DigitsQuestion, site: Site, answer: Answer) -> np.ndarray:
        """Return what a site has answered, if that can be true."""
        if len(answer.data) % COUNT_BYTES:
            raise SiteFailure(site.name, "its answer is not one vector of int64")
        counts = np.frombuffer(answer.data, COUNTS)
        with blamed_on(site):
            self._of_sites[site.name].check(question, counts)
        return counts


class MaskedSums:
    """Adds up masked answers, whose sum alone can be read, and checked.

    Parameters
    ----------
    of_all
        What is known of the sums so far.
    channels
        Number of channels.
    """

    def __init__(self, of_all: AnswersOfSite, channels: int) -> None:
        self._of_all = of_all
        self._channels = channels

    def total(self, question: MomentsQuestion | DigitsQuestion, answers: Mapping[Site, Answer]) -> np.ndarray:
        """Return the sum of the answers; see `AnswerSums`."""
        widths = widths_of(question, self._channels)
        for site, answer in answers.items():
            with blamed_on(site):
                from_bytes(answer.data, widths)
        masked = added([answer.data for answer in answers.values()], widths)
        total = from_integers(question, from_bytes(masked, widths))
        try:
            self._of_all.check(question, total)
        except FednnUNetError:
            raise FednnUNetError(
                "The sites' masks do not cancel, or a site's answer is impossible, and masked answers do not tell "
                "which site it is: check that all sites have the same version, and start all nodes again."
            ) from None
        return total
