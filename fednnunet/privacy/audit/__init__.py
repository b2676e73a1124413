"""A site's audit log: one JSON line for each message that the site sends or receives.

Each line, an `AuditEntry`, holds the hash of the line before, so that no line can be changed, removed or moved without
changing all later ones. A file that is rewritten as a whole can only be detected with a receipt: number and hash of an
entry, kept at the coordinator. Lines after the last receipt and, without a receipt, the last line are as trustworthy as
the site itself.

A line cut short by a full disk or a power failure stays in the file. The entry of kind ``torn`` that follows it holds
the hash of the incomplete line, and the hash of the entry before it as `previous`.
"""

from fednnunet.privacy.audit.entries import AuditEntry, Receipt, read_entries, read_receipts
from fednnunet.privacy.audit.log import AuditLog
from fednnunet.privacy.audit.verification import Verification, verify

__all__ = ["AuditEntry", "AuditLog", "Receipt", "Verification", "read_entries", "read_receipts", "verify"]
