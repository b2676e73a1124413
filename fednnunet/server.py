"""The coordinator: ``python fednnunet/server.py TASK --num_clients N [FOLD] --port P``."""

import sys

from fednnunet.cli.commands import server_main

if __name__ == "__main__":
    sys.exit(server_main())
