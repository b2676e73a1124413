"""Turns the security flags into what the channel needs: identities, endpoints, policy and audit log."""

from pathlib import Path

from fednnunet.errors import FednnUNetError
from fednnunet.privacy.policy import read_policy
from fednnunet.protocol.conversation import NO_CERTIFICATE
from fednnunet.security.authentication import Authenticator
from fednnunet.security.certificates import check_server_certificate
from fednnunet.security.identity import read_sites
from fednnunet.settings.coordinator import ListeningSettings
from fednnunet.settings.node import ConnectionSettings
from fednnunet.transport.address import is_loopback, is_unspecified, join_address
from fednnunet.transport.tls import Endpoint, authority


def tls_files(settings: ListeningSettings) -> tuple[bytes, bytes] | None:
    """Return certificate and key of the coordinator, PEM, if there are any.

    Raises
    ------
    FednnUNetError
        If they are no good, or other machines could connect without them.
    """
    if settings.tls_cert is not None and settings.tls_key is not None:
        check_server_certificate(settings.tls_cert, settings.tls_key)
        return settings.tls_cert.read_bytes(), settings.tls_key.read_bytes()
    if not is_loopback(settings.host) and not settings.insecure:
        raise FednnUNetError(
            f"Other machines can reach {settings.host}, but the connection would not be encrypted: "
            "give --tls-cert and --tls-key (see 'fednnunet certificates create'), or --insecure if "
            "the network is trusted."
        )
    return None


def authenticator_of(settings: ListeningSettings, num_clients: int) -> Authenticator:
    """Return what lets sites in.

    Raises
    ------
    FednnUNetError
        If the list of sites is no good, or everybody could come in.
    """
    certificate = NO_CERTIFICATE
    if settings.tls_cert is not None and settings.tls_key is not None:
        certificate = check_server_certificate(settings.tls_cert, settings.tls_key)
    if settings.sites is None:
        if not is_loopback(settings.host) and not settings.insecure:
            raise FednnUNetError(
                f"Other machines can reach {settings.host}, and any of them could join: list the sites "
                "with --sites (see 'fednnunet keys create'), or give --insecure."
            )
        return Authenticator(None, certificate)
    sites = read_sites(settings.sites)
    if len(sites.names) < num_clients:
        raise FednnUNetError(
            f"{settings.sites} lists {len(sites.names)} sites, fewer than --num_clients {num_clients}: add the others."
        )
    return Authenticator(sites, certificate)


def endpoint(settings: ConnectionSettings) -> Endpoint:
    """Return where the coordinator is, and whom to trust there.

    Raises
    ------
    FednnUNetError
        If the authority's certificate is no good, or nothing would be encrypted on the way to another machine.
    """
    if settings.ca_cert is not None:
        return Endpoint(settings.host, settings.port, authority(settings.ca_cert))
    if is_unspecified(settings.host) and not settings.insecure:
        raise FednnUNetError(
            f"--host {settings.host} means all addresses of a coordinator's machine: give the one by "
            "which this node reaches it, on the same machine 127.0.0.1."
        )
    if not is_loopback(settings.host) and not settings.insecure:
        raise FednnUNetError(
            f"{join_address(settings.host, settings.port)} is another machine, and the connection to "
            "it would not be encrypted: give --ca-cert with the certificate that the coordinator "
            "sent you, or --insecure."
        )
    return Endpoint(settings.host, settings.port)


def fewest_cases(min_cases: int, policy: Path | None) -> int:
    """Return the minimum number of cases behind a reported metric: the larger one of flag and policy.

    Raises
    ------
    FednnUNetError
        If the policy cannot be read.
    """
    rule = 1 if policy is None else read_policy(policy).metrics.min_cases
    return max(min_cases, rule)
