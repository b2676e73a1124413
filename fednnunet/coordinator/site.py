"""One site, as the coordinator sees it: the same through all of its connections."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar
from uuid import uuid4

from flwr.common import (
    Code,
    DisconnectRes,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    ReconnectIns,
    Status,
)
from flwr.server.client_proxy import ClientProxy

from fednnunet.coordinator.meters import SiteMeter
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.protocol.conversation import PING, Answer, Question
from fednnunet.protocol.messages import Hello, WorkReport
from fednnunet.schema import Message, cleaned
from fednnunet.transport.connection import FAREWELL_SECONDS, NO_PARAMETERS, answer_over, disconnect, hang_up

logger = logging.getLogger(__name__)

AnyMessage = TypeVar("AnyMessage", bound=Message)
OnProgress = Callable[[WorkReport], None]

RETURN_WITHIN_SECONDS = 20.0
"""How long a question waits for a connection that broke to be replaced."""

ASK_EVERY_SECONDS = 0.25
"""How often a question is asked at most: nodes take a second to say that they are still at work, but nobody must."""

ANSWER_WITHIN_SECONDS = 5.0
"""How long a site may take to say anything at all when it has no time left for its work."""

_OK = Status(Code.OK, "")


class SiteLost(SiteFailure):
    """A site cannot be reached, or its node was restarted and does not know what it was asked."""


class SiteLate(SiteFailure):
    """A site has not done its work within the time that it was given."""


class SiteOutlier(SiteFailure):
    """A site's update is larger than `--max_update_norm` allows: the round is made without it."""


class Site(ClientProxy):
    """A site. What is asked of it survives a broken connection: the question is asked again over the next one.

    Parameters
    ----------
    hello
        How its node has introduced itself.
    connection
        Its connection.
    contact_timeout
        Seconds without an answer, after which a connection counts as broken.
    """

    def __init__(self, hello: Hello, connection: ClientProxy, contact_timeout: float) -> None:
        super().__init__(cid=hello.site)
        self.properties["site"] = hello.site
        self.hello = hello
        self.last_contact = time.time()
        self.last_entry: tuple[int, str] | None = None
        """Number and SHA-256 of the last entry of the site's audit log, as it says."""
        self.meter = SiteMeter()
        self.waits_for_approval = False
        """Whether a person there has to agree to what it would send."""
        self.on_approval: Callable[[bool], None] = lambda waits: None
        """Is told when that begins, and when it is over."""
        self._withholds = False
        self._contact_timeout = contact_timeout
        self._changed = threading.Condition()
        self._line = threading.Lock()  # a connection carries one question at a time
        self._connection: ClientProxy | None = connection
        self._generation = self._known_generation = 1
        """Which node of the site is there, and which one questions are for."""
        self._is_closed = False
        self._allowance = _Allowance(None)

    @property
    def name(self) -> str:
        """What the site is called."""
        return self.hello.site

    @property
    def connection(self) -> ClientProxy | None:
        """The connection that there is, if any."""
        return self._connection

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    @property
    def is_restarted(self) -> bool:
        """Whether its node is another one than the one that was asked before: questions fail until `renew`."""
        return self._generation != self._known_generation

    def renew(self) -> None:
        """Ask the node that there is now."""
        with self._changed:
            self._known_generation = self._generation

    def allow(self, seconds: float | None) -> None:
        """Give the site this long for its answers to all that it is asked from now on; ``None`` for no limit.

        Only the time counts that it takes for its own answers, not that of others. Once it is used up, questions raise
        `SiteLate`. So do those that are still asked for what came before.
        """
        self._allowance = _Allowance(seconds)

    def hurry(self, seconds: float | None) -> None:
        """Give the site this long more for what it is being asked, if it was allowed more, or any time."""
        if seconds is not None:
            self._allowance.shorten(seconds)

    def connect(self, connection: ClientProxy, hello: Hello) -> None:
        """Replace the connection by a new one."""
        with self._changed:
            if hello.instance != self.hello.instance:
                self._generation += 1
            self.hello, self._connection, self.last_contact = hello, connection, time.time()
            self._changed.notify_all()

    def lose_connection(self, cid: str) -> bool:
        """Take note that a connection has ended; return whether it was the one of this site."""
        with self._changed:
            if self._connection is None or self._connection.cid != cid:
                return False
            self._connection = None
            self._changed.notify_all()
            return True

    def close(self) -> None:
        """Let all questions that wait for an answer fail."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def hang_up_unless_idle(self, seconds: float) -> None:
        """End the connection if a question is still without any answer after so many seconds."""
        if self._line.acquire(timeout=max(0.0, seconds)):
            self._line.release()
        elif self._connection is not None:
            hang_up(self._connection)

    def ping(self, older_than: float = 0.0) -> bool:
        """Make sure that the node knows of the coordinator; return whether it could be reached.

        Parameters
        ----------
        older_than
            Seconds; a contact that is not older will do, as will a question that is being asked.
        """
        connection = self._connection
        if connection is None:
            return False
        if older_than and time.time() - self.last_contact < older_than:
            return True
        if not self._line.acquire(blocking=not older_than):
            return True
        try:
            self._heard(answer_over(connection, Question(PING), self._contact_timeout))
        except Exception as error:
            self._lose(connection, error)
            return False
        finally:
            self._line.release()
        return True

    def ask(
        self,
        kind: str,
        body: Message | None,
        answer: type[AnyMessage],
        *,
        id: str | None = None,
        progress: OnProgress | None = None,
    ) -> AnyMessage:
        """Ask a question and return the message that is answered; parameters and errors are those of `answer`.

        Parameters
        ----------
        kind, body, id
            The question.
        answer
            Class of the answer.
        progress
            See `answer`.
        """
        return self.answer(Question.of(kind, body, id=id), progress).read(answer)

    def answer(self, question: Question, progress: OnProgress | None = None) -> Answer:
        """Ask a question, over as many connections as that takes, and return the answer.

        Parameters
        ----------
        question
            The question; without an id it gets one of its own.
        progress
            Called, while an answer takes long, with how far it is.

        Raises
        ------
        FednnUNetError
            If the node reports a failure, or what it says is no answer.
        SiteLost
            If it cannot be reached any more.
        SiteLate
            If it takes longer than it is allowed.
        """
        asked = question if question.id is not None else replace(question, id=uuid4().hex)
        allowance = self._allowance
        try:
            while True:
                began = time.monotonic()
                answer = self._answer_over(self._wait_for_connection(allowance), asked, allowance)
                if answer is None:
                    self._spend(allowance, began)
                    continue
                if answer.failure is not None:
                    raise FednnUNetError(cleaned(answer.failure))
                if answer.pending is None:
                    allowance.spend(began)
                    return answer
                self._wait_for_approval(answer.pending.waits_for_approval)
                if progress is not None:
                    progress(answer.pending)
                with self._changed:
                    self._changed.wait_for(lambda: self._is_closed, began + ASK_EVERY_SECONDS - time.monotonic())
                self._spend(allowance, began)
        finally:
            self._wait_for_approval(False)

    def get_properties(self, ins: GetPropertiesIns, timeout: float | None, group_id: int | None) -> GetPropertiesRes:
        """Ask a question as Flower does."""
        return GetPropertiesRes(_OK, self.answer(Question.from_config(ins.config)).to_config())

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        """Let the site do a round's work; `SiteFailure` if it cannot within `timeout` seconds."""
        self.allow(timeout)
        with self.meter.training.running(), blamed_on(self):
            answer = self.answer(Question.from_config(ins.config))
        return FitRes(_OK, NO_PARAMETERS, self.hello.cases, answer.to_config())

    def evaluate(self, ins: EvaluateIns, timeout: float | None, group_id: int | None) -> EvaluateRes:
        """Let the site validate a round's result; `SiteFailure` if it cannot within `timeout` seconds."""
        self.allow(timeout)
        with self.meter.validating.running(), blamed_on(self):
            answer = self.answer(Question.from_config(ins.config))
        return EvaluateRes(_OK, 0.0, self.hello.cases, answer.to_config())

    def get_parameters(self, ins: GetParametersIns, timeout: float | None, group_id: int | None) -> GetParametersRes:
        """Not used: weights are fetched part by part."""
        raise NotImplementedError

    def reconnect(self, ins: ReconnectIns, timeout: float | None, group_id: int | None) -> DisconnectRes:
        """Let the node close its connection."""
        connection = self._connection
        return DisconnectRes("") if connection is None else connection.reconnect(ins, timeout, group_id)

    def disconnect(self, error: str | None) -> None:
        """Tell the node why it is not needed any more, and let it go."""
        connection = self._connection
        if connection is None or not self._line.acquire(timeout=FAREWELL_SECONDS):
            return
        try:
            last_words = disconnect(connection, error)
            if last_words is not None:
                self._heard(last_words)
        finally:
            self._line.release()

    def _answer_over(self, connection: ClientProxy, question: Question, allowance: "_Allowance") -> Answer | None:
        """Ask a question over a connection; return ``None`` if that breaks."""
        # a site that lets its bytes trickle takes no longer than one that says nothing
        seconds = min(self._contact_timeout, allowance.left + ANSWER_WITHIN_SECONDS)
        try:
            with self._turn(seconds):
                self.meter.count_question(question)
                answer = answer_over(connection, question, seconds)
                self.meter.count_answer(answer)
        except FednnUNetError:
            raise
        except Exception as error:  # whatever is not our own error comes out of the channel
            self._lose(connection, error)
            return None
        self._heard(answer)
        return answer

    def _wait_for_approval(self, waits: bool) -> None:
        if waits != self.waits_for_approval:
            self.waits_for_approval = waits
            self.on_approval(waits)

    def _heard(self, answer: Answer) -> None:
        """Take note of an answer."""
        self.last_contact = time.time()
        if answer.log is not None:
            self.last_entry = answer.log
        if answer.withheld is not None and not self._withholds:
            self._withholds = True
            if self.hello.hides_figures:  # who tells them for sums over sites does not withhold them
                return
            rule = cleaned(answer.withheld)
            logger.warning("Site %s withholds its metrics (rule %s of its policy).", self.name, rule)

    def _spend(self, allowance: "_Allowance", began: float) -> None:
        """Take the time since `began` off what a site has left for its answer; raise `SiteLate` if that is nothing."""
        allowance.spend(began)
        if allowance.is_used_up or allowance is not self._allowance:
            raise SiteLate(self.name, f"it did not finish within {allowance.seconds or 0:.4g} s")

    @contextmanager
    def _turn(self, seconds: float) -> Iterator[None]:
        """Have the connection for one question; a ping that goes on before it is waited for no longer than this."""
        if not self._line.acquire(timeout=seconds):
            raise TimeoutError(f"an earlier question is unanswered after {seconds:g} s")
        try:
            yield
        finally:
            self._line.release()

    def _wait_for_connection(self, allowance: "_Allowance") -> ClientProxy:
        """Return the connection, or wait for the next one, but no longer than an answer may take."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._connection is not None or self.is_restarted or self._is_closed,
                min(RETURN_WITHIN_SECONDS, allowance.left),
            )
            if self.is_restarted:
                raise SiteLost(self.name, "its node was restarted")
            if self._connection is None or self._is_closed:
                raise SiteLost(self.name, "its connection broke, see the node's output")
            return self._connection

    def _lose(self, connection: ClientProxy, error: Exception) -> None:
        logger.debug("The connection of site %s broke", self.name, exc_info=error)
        self.lose_connection(connection.cid)
        hang_up(connection)  # so that a node that can still be reached connects again


class _Allowance:
    """Seconds that a site has for its answers, and what is left of them."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._spent = 0.0

    @property
    def is_used_up(self) -> bool:
        return self.seconds is not None and self._spent > self.seconds

    @property
    def left(self) -> float:
        return math.inf if self.seconds is None else max(0.0, self.seconds - self._spent)

    def shorten(self, left: float) -> None:
        """Leave this many seconds at most."""
        self.seconds = self._spent + left if self.seconds is None else min(self.seconds, self._spent + left)

    def spend(self, began: float) -> None:
        """Count the time since `began`."""
        self._spent += time.monotonic() - began


def as_failure(site: Site, error: BaseException) -> SiteFailure:
    """Return an error in what a site was asked, or has answered, as that site's failure."""
    if isinstance(error, SiteFailure):
        return error
    if isinstance(error, FednnUNetError):
        return SiteFailure(site.name, str(error))
    # what it says may hold anything, and all sites are told
    logger.warning("A question to site %s, or its answer, failed: %s: %s", site.name, type(error).__name__, error)
    reason = f"its answer could not be handled ({type(error).__name__}, see the coordinator's output)"
    return SiteFailure(site.name, reason)


@contextmanager
def blamed_on(site: Site) -> Iterator[None]:
    """Make whatever goes wrong in the block the failure of a site."""
    try:
        yield
    except Exception as error:
        raise as_failure(site, error) from error
