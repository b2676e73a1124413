"""Certificates for the coordinator: made by a private certificate authority (CA), shown, and checked before use.

The CA signs the coordinator's certificate. Nodes trust the CA, so that the coordinator's certificate can be renewed
without them. The form of the certificates is that of RFC 5280, how names are matched is RFC 9525.
"""

from fednnunet.channel.certificates.making import DAYS, CreatedCertificates, create_certificates
from fednnunet.channel.certificates.reading import (
    CA_CERTIFICATE,
    CA_KEY,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    CertificateSummary,
    check_server_certificate,
    describe_certificates,
)

__all__ = [
    "CA_CERTIFICATE",
    "CA_KEY",
    "DAYS",
    "SERVER_CERTIFICATE",
    "SERVER_KEY",
    "CertificateSummary",
    "CreatedCertificates",
    "check_server_certificate",
    "create_certificates",
    "describe_certificates",
]
