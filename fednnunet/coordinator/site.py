"""One site, as the coordinator sees it: the same through all of its connections."""

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from uuid import uuid4

from flwr.common import (
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
    Scalar,
)
from flwr.server.client_proxy import ClientProxy

from fednnunet.channel.long_lived.serving import hang_up
from fednnunet.channel.messages import Farewell, Hello, WorkReport
from fednnunet.coordinator.meters import SiteMeter
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.message import Message, cleaned

logger = logging.getLogger(__name__)

AnyMessage = TypeVar("AnyMessage", bound=Message)
Reply = TypeVar("Reply", GetPropertiesRes, FitRes, EvaluateRes)
OnProgress = Callable[[WorkReport], None]

RETURN_WITHIN_SECONDS = 20.0
"""How long a question waits for a connection that broke to be replaced."""

ASK_EVERY_SECONDS = 0.25
"""How often a question is asked at most: nodes take a second to say that they are still at work, but nobody must."""

ANSWER_WITHIN_SECONDS = 5.0
"""How long a site may take to say anything at all when it has no time left for its work."""

_FAREWELL_SECONDS = 10.0
_LOG_ENTRY = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")


class SiteLost(SiteFailure):
    """A site cannot be reached, or its node was restarted and does not know what it was asked."""


class SiteLate(SiteFailure):
    """A site has not done its work within the time that it was given."""


class SiteOutOfLine(SiteFailure):
    """A site's update is larger than `--max_update_norm` allows: the round is made without it."""


class Site(ClientProxy):
    """A site. What is asked of it survives a broken connection: the question is asked again over the next one.

    Parameters
    ----------
    hello
        How its node has introduced itself.
    proxy
        Its connection.
    contact_timeout
        Seconds without an answer, after which a connection counts as broken.
    """

    def __init__(self, hello: Hello, proxy: ClientProxy, contact_timeout: float) -> None:
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
        self._proxy: ClientProxy | None = proxy
        self._node = 1
        self._spoken_to = 1
        self._is_closed = False
        self._allowance = _Allowance(None)

    @property
    def name(self) -> str:
        """What the site is called."""
        return self.hello.site

    @property
    def proxy(self) -> ClientProxy | None:
        """The connection that there is, if any."""
        return self._proxy

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._proxy is not None

    @property
    def is_restarted(self) -> bool:
        """Whether its node is another one than the one that was spoken to: questions fail until `renew`."""
        return self._node != self._spoken_to

    def renew(self) -> None:
        """Speak to the node that there is now."""
        with self._changed:
            self._spoken_to = self._node

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

    def connect(self, proxy: ClientProxy, hello: Hello) -> None:
        """Replace the connection by a new one."""
        with self._changed:
            if hello.instance != self.hello.instance:
                self._node += 1
            self.hello, self._proxy, self.last_contact = hello, proxy, time.time()
            self._changed.notify_all()

    def disconnect(self, cid: str) -> bool:
        """Take note that a connection has ended; return whether it was the one of this site."""
        with self._changed:
            if self._proxy is None or self._proxy.cid != cid:
                return False
            self._proxy = None
            self._changed.notify_all()
            return True

    def close(self) -> None:
        """Let all questions that wait for an answer fail."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def ping(self, older_than: float = 0.0) -> bool:
        """Make sure that the node knows of the coordinator; return whether it could be reached.

        Parameters
        ----------
        older_than
            Seconds; a contact that is not older will do, as will a question that is being asked.
        """
        proxy = self._proxy
        if proxy is None:
            return False
        if older_than and time.time() - self.last_contact < older_than:
            return True
        if not self._line.acquire(blocking=not older_than):
            return True
        try:
            reply = proxy.get_properties(
                GetPropertiesIns({"ask": "ping", "body": "{}"}), timeout=self._contact_timeout, group_id=None
            )
            self._heard(reply.properties)
        except Exception as error:
            self._lose(proxy, error)
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
        question: str | None = None,
        progress: OnProgress | None = None,
    ) -> AnyMessage:
        """Ask a question and return the answer.

        Parameters
        ----------
        kind, body
            The question.
        answer
            Class of the answer.
        question
            Identifies the question for as long as it is the last one; one of its own if not given.
        progress
            Called, while an answer takes long, with how far it is.

        Raises
        ------
        FednnUNetError
            If the node reports a failure or answers something else.
        SiteLost
            If it cannot be reached any more.
        SiteLate
            If it takes longer than it is allowed.
        """
        message, _ = self.ask_with_data(kind, body, answer, question=question, progress=progress)
        return message

    def ask_with_data(
        self,
        kind: str,
        body: Message | None,
        answer: type[AnyMessage],
        data: bytes = b"",
        *,
        question: str | None = None,
        progress: OnProgress | None = None,
    ) -> tuple[AnyMessage, bytes]:
        """Do what `ask` does with bytes beside the question, and return those beside the answer too."""
        config: dict[str, Scalar] = {"ask": kind, "body": body.to_json() if body is not None else "{}"}
        if question is not None:
            config["id"] = question
        if data:
            config["data"] = data
        reply = self._until_answered(
            config,
            lambda proxy, asked, seconds: proxy.get_properties(GetPropertiesIns(asked), seconds, None),
            lambda properties: properties.properties,
            progress=progress,
        )
        beside = reply.properties.get("data", b"")
        message = answer.from_json(str(reply.properties.get("body", "")))
        return message, beside if isinstance(beside, bytes) else b""

    def get_properties(self, ins: GetPropertiesIns, timeout: float | None, group_id: int | None) -> GetPropertiesRes:
        """Ask a question as Flower does."""

        def send(proxy: ClientProxy, config: dict[str, Scalar], seconds: float) -> GetPropertiesRes:
            return proxy.get_properties(GetPropertiesIns(config), seconds, group_id)

        return self._until_answered(ins.config, send, lambda reply: reply.properties)

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        """Let the site do a round's work; `SiteLate` if it takes more than `timeout` seconds."""

        def send(proxy: ClientProxy, config: dict[str, Scalar], seconds: float) -> FitRes:
            return proxy.fit(FitIns(ins.parameters, config), seconds, group_id)

        self.allow(timeout)
        with self.meter.training.running():
            return self._until_answered(ins.config, send, lambda reply: reply.metrics)

    def evaluate(self, ins: EvaluateIns, timeout: float | None, group_id: int | None) -> EvaluateRes:
        """Hand a round's result to the site; `SiteLate` if it takes more than `timeout` seconds."""

        def send(proxy: ClientProxy, config: dict[str, Scalar], seconds: float) -> EvaluateRes:
            return proxy.evaluate(EvaluateIns(ins.parameters, config), seconds, group_id)

        self.allow(timeout)
        with self.meter.validating.running():
            return self._until_answered(ins.config, send, lambda reply: reply.metrics)

    def get_parameters(self, ins: GetParametersIns, timeout: float | None, group_id: int | None) -> GetParametersRes:
        """Not used: weights are fetched part by part."""
        raise NotImplementedError

    def reconnect(self, ins: ReconnectIns, timeout: float | None, group_id: int | None) -> DisconnectRes:
        """Let the node close its connection."""
        proxy = self._proxy
        return DisconnectRes("") if proxy is None else proxy.reconnect(ins, timeout, group_id)

    def take_leave(self, error: str | None) -> None:
        """Tell the node why it is not needed any more, and let it go."""
        proxy = self._proxy
        if proxy is None or not self._line.acquire(timeout=_FAREWELL_SECONDS):
            return
        try:
            self._heard(take_leave(proxy, error))
        finally:
            self._line.release()

    def _until_answered(
        self,
        config: dict[str, Scalar],
        send: Callable[[ClientProxy, dict[str, Scalar], float], Reply],
        told: Callable[[Reply], dict[str, Scalar]],
        progress: OnProgress | None = None,
    ) -> Reply:
        asked = {"id": uuid4().hex, **config}
        allowance = self._allowance
        try:
            while True:
                began = time.monotonic()
                proxy = self._connection(allowance)
                # a site that lets its bytes trickle takes no longer than one that says nothing
                seconds = min(self._contact_timeout, allowance.left + ANSWER_WITHIN_SECONDS)
                try:
                    with self._turn(seconds):
                        self.meter.count_question(asked)
                        reply = send(proxy, asked, seconds)
                        answer = told(reply)
                        self.meter.count_answer(answer)
                except FednnUNetError:
                    raise
                except Exception as error:  # whatever is not our own error comes out of the channel
                    self._lose(proxy, error)
                    self._spend(allowance, began)
                    continue
                self._heard(answer)
                if "failure" in answer:
                    raise FednnUNetError(cleaned(str(answer["failure"])))
                if "pending" not in answer:
                    allowance.spend(began)
                    return reply
                report = WorkReport.from_json(str(answer["pending"]))
                self._wait_for_approval(report.waits_for_approval)
                if progress is not None:
                    progress(report)
                with self._changed:
                    self._changed.wait_for(lambda: self._is_closed, began + ASK_EVERY_SECONDS - time.monotonic())
                self._spend(allowance, began)
        finally:
            self._wait_for_approval(False)

    def _wait_for_approval(self, waits: bool) -> None:
        if waits != self.waits_for_approval:
            self.waits_for_approval = waits
            self.on_approval(waits)

    def _heard(self, answer: dict[str, Scalar]) -> None:
        """Take note of an answer."""
        self.last_contact = time.time()
        entry = _LOG_ENTRY.fullmatch(str(answer.get("log", "")))
        if entry is not None:
            self.last_entry = int(entry[1]), entry[2]
        if "withheld" in answer and not self._withholds:
            self._withholds = True
            logger.warning(
                "Site %s withholds its metrics (rule %s of its policy).", self.name, cleaned(str(answer["withheld"]))
            )

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

    def _connection(self, allowance: "_Allowance") -> ClientProxy:
        """Return the connection, or wait for the next one, but no longer than an answer may take."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._proxy is not None or self.is_restarted or self._is_closed,
                min(RETURN_WITHIN_SECONDS, allowance.left),
            )
            if self.is_restarted:
                raise SiteLost(self.name, "its node was restarted")
            if self._proxy is None or self._is_closed:
                raise SiteLost(self.name, "its connection broke, see the node's output")
            return self._proxy

    def _lose(self, proxy: ClientProxy, error: Exception) -> None:
        logger.debug("The connection of site %s broke", self.name, exc_info=error)
        self.disconnect(proxy.cid)
        hang_up(proxy)  # so that a node that can still be reached connects again


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


def take_leave(proxy: ClientProxy, error: str | None) -> dict[str, Scalar]:
    """Tell a node why it is not needed, or not any more, and let it go; return its last words."""
    last_words: dict[str, Scalar] = {}
    try:
        config: dict[str, Scalar] = {"ask": "farewell", "body": Farewell(error=error).to_json()}
        last_words = proxy.get_properties(GetPropertiesIns(config), _FAREWELL_SECONDS, group_id=None).properties
        proxy.reconnect(ReconnectIns(seconds=None), timeout=_FAREWELL_SECONDS, group_id=None)
    except Exception as problem:  # it has gone, or is still at work and will see the connection end
        logger.debug("A node could not be disconnected cleanly: %s", problem)
    return last_words
