"""FednnU-Net: federated nnU-Net for hospitals that cannot share patient scans."""

import os

__version__ = "0.1.0"

# Flower and gRPC read these when they are first imported, and every import of them in this project comes later.
# A program that runs inside hospitals reports to nobody:
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
# nnU-Net forks workers, none of which touches the connection; gRPC would complain about each of them:
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"
# it would also print a line for each stranger whose TLS handshake fails:
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
