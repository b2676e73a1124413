"""Runs the console script ``fednnunet``: ``python -m fednnunet``."""

import sys

from fednnunet.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
