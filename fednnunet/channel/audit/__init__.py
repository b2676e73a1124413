"""A site's audit log: one JSON line for each message that leaves the site or comes to it.

Each line, an `AuditEntry`, holds the hash of the line before, so that no line can be changed, removed or moved
without changing all that follow. Against somebody who can write the whole file anew only a receipt helps: number and
hash of an entry, kept at the coordinator. What stands behind the last receipt, and without a receipt the last line,
is as trustworthy as the site itself.

A line whose writing was cut short, by a full disk or a power failure, stays in the file. The entry of kind ``torn``
that follows it holds the hash of what is there, and the hash of the entry before it as `previous`.
"""

from fednnunet.channel.audit.entries import AuditEntry, Receipt, read_entries, read_receipts
from fednnunet.channel.audit.log import AuditLog
from fednnunet.channel.audit.verification import Verification, verify

__all__ = ["AuditEntry", "AuditLog", "Receipt", "Verification", "read_entries", "read_receipts", "verify"]
