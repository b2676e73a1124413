"""Flower's long-lived gRPC stream: a node opens one outbound connection, keeps it, and opens another one if it breaks.

The only package that names what of Flower carries it: the servicer of its gRPC service (in `serving`) and
``start_client`` (in `joining`), which is deprecated upstream; nodes and strategies do not know which channel there is.
The two are apart because what each imports of Flower takes some 45 MB, and no process needs both.
"""
