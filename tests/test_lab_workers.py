"""What becomes of the processes that train when the one that started them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rotational.lab.store import CHECKPOINT

PARENT = """
import sys, threading
from pathlib import Path
from rotational.lab.workers import Pool
from rotational.paper.base import tiny_images

def main():
    run = tiny_images(10**6)
    jobs = [run.but(seed=seed) for seed in range(3)]
    pool = Pool(2)
    with pool.stopping() as stop:
        pool.work(jobs, Path(sys.argv[1]), None, lambda word: print(word.key, word.step, flush=True), stop)

if __name__ == "__main__":
    main()
"""


def children(parent: int) -> list[int]:
    found = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _parent(pid) == parent]
    return [pid for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _parent(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return -1


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_runs_of_a_killed_process_leave_their_checkpoints_and_end(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    begun = dict[str, int]()
    with subprocess.Popen([sys.executable, script, tmp_path / "out"], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        for line in parent.stdout:
            key, step = line.split()
            begun[key] = int(step)
            if len(begun) == 2 and min(begun.values()) > 0:
                break
        workers = children(parent.pid)
        parent.send_signal(signal.SIGKILL)
    assert len(workers) == 2
    for _ in range(200):
        if all(map(gone, workers)):
            break
        time.sleep(0.1)
    left = [pid for pid in workers if not gone(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
    for key in begun:
        assert (tmp_path / "out" / key / "log" / CHECKPOINT).is_file()
    assert len(list((tmp_path / "out").iterdir())) == 2  # the third never began
