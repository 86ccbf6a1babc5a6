"""`python -m rotational`, which torchrun needs: `torchrun --nproc-per-node 4 -m rotational reproduce ...`."""

import os
import sys

from rotational.cli import main

if __name__ == "__main__":
    code = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Seen once in dozens of runs: a thread of torch's store outlived it, and aborted Python's own way out.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
