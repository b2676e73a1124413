"""``python -m fednnunet`` is the console script ``fednnunet``."""

import sys

from fednnunet.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
