"""`python -m rotational.cli`."""

import sys

from rotational.cli import main

if __name__ == "__main__":
    sys.exit(main())
