"""Authenticates nodes when they connect (coordinator side)."""

from typing import NamedTuple

from flwr.common import GetPropertiesIns, Scalar
from flwr.server.client_proxy import ClientProxy

from fednnunet.channel.identity import Challenge, SiteList
from fednnunet.channel.messages import Hello
from fednnunet.errors import FednnUNetError


class Visitor(NamedTuple):
    """A node that has introduced itself."""

    hello: Hello
    display_name: str
    """What people call its site."""


class Door:
    """Lets nodes in that prove to be one of the listed sites; without a list, all that introduce themselves.

    Nothing but a challenge is given to a node before.

    Parameters
    ----------
    sites
        Who may take part.
    certificate
        SHA-256 of the certificate that nodes are shown.
    """

    def __init__(self, sites: SiteList | None, certificate: bytes) -> None:
        self._sites = sites
        self._certificate = certificate

    @property
    def is_guarded(self) -> bool:
        """Whether there is a list."""
        return self._sites is not None

    def greet(self, proxy: ClientProxy, run: str, timeout: float) -> Visitor:
        """Let a node introduce itself.

        Parameters
        ----------
        proxy
            Its connection.
        run
            Name of this run of the coordinator, in hexadecimal digits.
        timeout
            Seconds that it gets.

        Raises
        ------
        FednnUNetError
            If it is not to be let in, or says something else.
        """
        challenge = Challenge.draw(run)
        question: dict[str, Scalar] = {"ask": "hello", "body": challenge.to_json()}
        answer = proxy.get_properties(GetPropertiesIns(question), timeout=timeout, group_id=None).properties
        introduction = answer.get("body", "")
        if not isinstance(introduction, str):
            raise FednnUNetError("A node's introduction is not text.")
        hello = Hello.from_json(introduction)
        if self._sites is None:
            return Visitor(hello, hello.site)
        proof = answer.get("data", b"")
        signature = proof if isinstance(proof, bytes) else b""
        self._sites.check(hello.site, signature, challenge, self._certificate, introduction)
        return Visitor(hello, self._sites.display_name(hello.site))
