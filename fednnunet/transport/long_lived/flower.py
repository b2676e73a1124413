"""Settings of Flower shared by both ends of the channel."""

import logging

LONGEST_MESSAGE = 16 << 20
"""Bytes; above any valid message."""


def silence() -> None:
    """Keep Flower's own narration, deprecation notices included, out of ours, and gRPC's about connections that end.

    What a node raises is told by whoever started it, in one sentence: Flower would tell it first, with a traceback.
    """
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
