"""The node of one site: ``python fednnunet/client.py TASK DATASET_ID [CONFIGURATION [FOLD]] --port P``."""

import sys

from fednnunet.cli.commands import client_main

if __name__ == "__main__":
    sys.exit(client_main())
