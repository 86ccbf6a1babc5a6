"""`python -m rotational`, which torchrun needs: `torchrun --nproc-per-node 4 -m rotational reproduce ...`."""

import os
import sys
from typing import NoReturn

from rotational.cli import main


def leave(code: int) -> NoReturn:
    """End this process; one of several without Python's own way out.

    Seen a few times in hundreds of runs: a thread of torch's store outlives the store, and aborts a process that has
    done all its work.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
