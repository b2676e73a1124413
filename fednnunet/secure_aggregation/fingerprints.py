"""What sites agree on before they add up their masked answers about cases."""

from fednnunet.protocol.messages import FingerprintMode, Task
from fednnunet.secure_aggregation.attempts import Context


def fingerprint_context(
    *, task: Task, run: str, cases: int, channels: int, mode: FingerprintMode | None, sites: str
) -> Context:
    """Return the context of the sums for one fingerprint.

    Parameters
    ----------
    task
        The task of the run.
    run
        Names the run of the coordinator, as it stands in the challenge.
    cases
        Of all sites.
    channels
        Number of channels.
    mode
        What sites tell.
    sites
        Digest of the list of sites.
    """
    return {
        "version": 1,
        "purpose": "fingerprint",
        "task": task,
        "run": run,
        "cases": cases,
        "channels": channels,
        "mode": mode,
        "list": sites,
    }
