"""A whole federation on one machine: ``python fednnunet/run.py TASK "ID ID ID" CONFIGURATION [FOLD]``."""

import sys

from fednnunet.cli.commands import run_main

if __name__ == "__main__":
    sys.exit(run_main())
