"""Flower's long-lived gRPC stream: a node opens one outbound connection, keeps it, and opens another one if it breaks.

The only package that names what of Flower carries it, the two ends of its gRPC service: the servicer (in `serving`),
and the generated stub (in `joining`). They are apart because the servicer imports some 45 MB that no node needs.
"""
