"""Raises the limit of file descriptors: each connection and each open file takes one."""

import logging

logger = logging.getLogger(__name__)

RESERVE = 256
"""Descriptors that are for files, whatever connects."""

_MOST_CONNECTIONS = 8192
"""Which take half a GiB of memory at most."""
_FEWEST_CONNECTIONS = 64
_ASSUMED_LIMIT = 1024


def most_connections() -> int:
    """Raise the limit of this process on open files as far as it may, and return how many connections fit below it.

    Connections of sites are counted, and those of unauthenticated nodes, which may have no more than these.
    """
    limit = _raised_limit()
    return max(_FEWEST_CONNECTIONS, min(_MOST_CONNECTIONS, limit - RESERVE))


def _raised_limit() -> int:
    try:
        import resource
    except ImportError:  # not a Unix
        return _ASSUMED_LIMIT
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = 2 * _MOST_CONNECTIONS
    if soft != unlimited and soft < wanted:
        raised = wanted if hard == unlimited else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
        except (OSError, ValueError) as error:
            logger.warning("The limit of open files stays at %d (%s).", soft, error)
    return wanted if soft == unlimited else soft
