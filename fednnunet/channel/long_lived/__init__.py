"""Flower's long-lived gRPC stream: a node opens one outbound connection, keeps it, and opens another one if it breaks.

The only package that names Flower's ``start_server`` (in `serving`) and ``start_client`` (in `joining`), which are
deprecated upstream; nodes and strategies do not know which channel carries them. The two are apart because what each
imports of Flower takes some 45 MB, and no process needs both.
"""
