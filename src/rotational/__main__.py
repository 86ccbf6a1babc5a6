"""`python -m rotational`, which torchrun needs: `torchrun --nproc-per-node 4 -m rotational reproduce ...`."""

import sys

from rotational.cli import main

if __name__ == "__main__":
    sys.exit(main())
