"""Authenticates nodes when they connect (coordinator side)."""

from typing import NamedTuple

from flwr.server.client_proxy import ClientProxy

from fednnunet.protocol.conversation import HELLO, Question
from fednnunet.protocol.messages import Hello
from fednnunet.security.identity import Challenge, SiteList
from fednnunet.transport.connection import answer_over


class AuthenticatedNode(NamedTuple):
    """A node that has introduced itself and, where that is required, proven its site."""

    hello: Hello
    display_name: str
    """What people call its site."""


class Authenticator:
    """Admits nodes that prove to be one of the listed sites; without a list, all that introduce themselves.

    Nothing but a challenge is sent to a node before.

    Parameters
    ----------
    sites
        The sites that may take part; ``None`` for any.
    certificate
        SHA-256 of the certificate that nodes are shown.
    """

    def __init__(self, sites: SiteList | None, certificate: bytes) -> None:
        self._sites = sites
        self._certificate = certificate

    @property
    def sites(self) -> SiteList | None:
        """The list."""
        return self._sites

    @property
    def requires_proof(self) -> bool:
        """Whether there is a list."""
        return self._sites is not None

    def authenticate(self, connection: ClientProxy, run: str, timeout: float) -> AuthenticatedNode:
        """Ask a node who it is, and check the proof.

        Parameters
        ----------
        connection
            Its connection.
        run
            Name of this run of the coordinator, in hexadecimal digits.
        timeout
            Seconds that it gets.

        Raises
        ------
        FednnUNetError
            If it is refused, or answers something else.
        """
        challenge = Challenge.draw(run)
        answer = answer_over(connection, Question.of(HELLO, challenge), timeout)
        hello, introduction = answer.read(Hello), answer.body or ""
        if self._sites is None:
            return AuthenticatedNode(hello, hello.site)
        self._sites.check(hello.site, answer.data, challenge, self._certificate, introduction)
        return AuthenticatedNode(hello, self._sites.display_name(hello.site))
