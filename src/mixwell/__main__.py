"""``python -m mixwell`` is the command ``mixwell``."""

import sys

from mixwell_cli import main

if __name__ == "__main__":
    sys.exit(main())
