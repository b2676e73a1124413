"""Creates, shows and checks the coordinator's certificates, issued by a private certificate authority (CA).

The CA signs the coordinator's certificate. Nodes trust the CA, so the coordinator's certificate can be renewed without
them. The format of certificates follows RFC 5280, the matching of names RFC 9525.
"""

from fednnunet.security.certificates.making import DAYS, CreatedCertificates, create_certificates
from fednnunet.security.certificates.reading import (
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
