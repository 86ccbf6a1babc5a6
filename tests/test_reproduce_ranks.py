"""`rotational reproduce` under torchrun: processes that go through the runs together, two of them here."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.torch_version import TorchVersion

from rotational.cli import main
from rotational.lab import reproduce
from rotational.lab.declare import Data, Model, Optimizer, Run, Schedule, grid
from rotational.lab.figures import Arm, Claim, Figure
from rotational.lab.quantities import Of
from rotational.lab.shelf import Shelf
from rotational.lab.workers import Pool

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed part")

# No batch norm and no dropout: what each process draws or averages by itself would differ from one process's.
RUN = Run(
    Model("gpt", width=16, blocks=1, heads=2),
    Data("chain", context=16),
    Optimizer("adamw", 0.02, 0.5),
    steps=12,
    batch=4,
    schedule=Schedule("constant"),
    every=2,
    evaluations=2,
)
HELD = RUN.but(optimizer__rotational=True)
ODD = RUN.but(batch=5)


def figure(*runs: Run) -> Figure:
    arms = tuple(Arm(f"arm {i}", grid(run, seed=(0,))) for i, run in enumerate(runs))
    return Figure("one", "1", "One", "One.", arms, arms, arms, (), (Claim("It learns", Of("arm 0", "loss"), low=0),))


SCRIPT = """
import os, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from rich.console import Console
from rotational.__main__ import leave
from rotational.lab import reproduce, tasks, together
from rotational.lab.shelf import Shelf
from rotational.lab.workers import Machine
from test_reproduce_ranks import HELD, ODD, RUN, figure

{before}

def lead(crew):
    ended = reproduce.run([figure({runs})], "tiny", Shelf({root!r}), crew, console=Console(width=200))
    print(*ended.failed, sep="\\n")
    return 130 if ended.interrupted else 2 if ended.failed else 0

leave(together.run(Machine(shard={shard}, compile={compiled}), None, lead))
"""


def started(*command: str) -> list[subprocess.Popen[str]]:
    """Two processes with what torchrun tells each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def script(
    root: Path, runs: str, before: str = "", shard: bool = False, compiled: bool = False
) -> list[subprocess.Popen[str]]:
    tests = str(Path(__file__).parent)
    code = SCRIPT.format(tests=tests, before=before, runs=runs, root=str(root), shard=shard, compiled=compiled)
    return started("-c", code)


def ended(processes: list[subprocess.Popen[str]]) -> tuple[list[int], list[str], list[str]]:
    """Exit codes, what was printed and what was said to stderr."""
    said = [p.communicate(timeout=120) for p in processes]
    return [p.returncode for p in processes], [out for out, _ in said], [err for _, err in said]


def finish(processes: list[subprocess.Popen[str]]) -> None:
    """Both to their end, without a failure."""
    codes, _, err = ended(processes)
    assert codes == [0, 0], err


def test_runs_come_out_as_those_of_one_process_up_to_rounding(tmp_path):
    codes, out, err = ended(script(tmp_path / "two", "RUN, HELD"))
    assert codes == [0, 0], err
    assert out[0].count("runs") == 2
    assert out[1] == ""
    one = reproduce.run([figure(RUN, HELD)], "tiny", Shelf(tmp_path / "one"), Pool(1)).states[0]
    two = reproduce.state(figure(RUN, HELD), "tiny", Shelf(tmp_path / "two"))
    assert (one.missing, two.missing) == (0, 0)
    for arm in ("arm 0", "arm 1"):
        a, b = (s.found.points(arm)[0].seeds[0] for s in (one, two))
        timeless = [{k: v for k, v in m.scalars.items() if k != "seconds per step"} for m in (a, b)]
        assert timeless[1] == pytest.approx(timeless[0], rel=2e-3)
        assert b.curves["loss"][1] == pytest.approx(a.curves["loss"][1], rel=1e-3)
    result = Shelf(tmp_path / "two").store.result(RUN)
    assert result is not None
    assert result.device == "2 x cpu"


def test_what_one_process_refuses_all_refuse_and_the_next_run_begins(tmp_path):
    missing = """
build = tasks.build
def lacking(run, where):
    if run == RUN and os.environ["RANK"] == "1":
        raise FileNotFoundError("there is no data here")
    return build(run, where)
tasks.build = lacking
"""
    codes, out, err = ended(script(tmp_path, "RUN, ODD, HELD", missing))
    assert codes == [2, 2], err
    assert "process 1 of 2: there is no data here" in out[0]
    assert "train(batch=5): expected a multiple of the 2 processes" in out[0]
    assert [Shelf(tmp_path).get(run) is None for run in (RUN, ODD, HELD)] == [True, True, False]


def test_a_process_that_fails_in_a_step_ends_all_and_the_run_can_go_on(tmp_path):
    breaking = """
build = tasks.build
def broken(run, where):
    task = build(run, where)
    batch = task.batch
    def unreadable(step):
        if step == 5 and os.environ["RANK"] == "1":
            raise OSError("the disk is gone")
        return batch(step)
    task.batch = unreadable
    return task
tasks.build = broken
"""
    codes, _, err = ended(script(tmp_path, "RUN", breaking))
    assert 0 not in codes
    assert "process 1 of 2 failed, OSError: the disk is gone. What has ended is kept" in err[1]
    assert "process 0 of 2 lost another one, which says why itself" in err[0]
    finish(script(tmp_path, "RUN"))
    assert Shelf(tmp_path).get(RUN) is not None


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C reaches processes differently there")
def test_an_interrupted_run_goes_on_and_ends_like_one_in_a_piece(tmp_path):
    long = "RUN.but(steps=600)"
    finish(script(tmp_path / "whole", long))
    processes = script(tmp_path / "halves", long)
    log = tmp_path / "halves" / RUN.but(steps=600).key / "log" / "steps.jsonl"
    deadline = time.monotonic() + 100
    while (not log.is_file() or log.stat().st_size < 20_000) and time.monotonic() < deadline:
        time.sleep(0.02)
    for _ in range(2):  # from the terminal, and once more from torchrun
        for process in processes:
            process.send_signal(signal.SIGINT)
    codes, out, err = ended(processes)
    assert codes == [130, 130], err
    assert "stopped at step" in out[0]
    assert Shelf(tmp_path / "halves").get(RUN.but(steps=600)) is None
    finish(script(tmp_path / "halves", long))
    one, two = (Shelf(tmp_path / name).store.result(RUN.but(steps=600)) for name in ("whole", "halves"))
    assert one is not None
    assert two is not None
    assert one.metrics == two.metrics
    assert one.curves["loss"].value.tolist() == two.curves["loss"].value.tolist()


def test_torchrun_starts_the_command_and_the_first_process_alone_speaks(tmp_path):
    words = ("-m", "rotational", "reproduce", "predictions", "adamc", "--seeds", "1", "--out", str(tmp_path))
    codes, out, err = ended(started(*words))
    assert (codes, err) == ([0, 0], ["", ""])
    assert "AdamC keeps norms flat" in (tmp_path / "pages" / "tiny" / "index.html").read_text()
    assert "adamc: AdamC, seed 0: in" in out[0]
    assert out[1] == ""
    codes, _, err = ended(started(*words, "--jobs", "2"))
    assert codes == [2, 2]
    assert "--jobs 2: processes of torchrun are all at one run" in err[0]


def test_shards_need_processes(capsys, tmp_path):
    assert main(["reproduce", "adamc", "--shard", "--out", str(tmp_path)]) == 2
    assert "--shard: there is one process. Start several: torchrun" in capsys.readouterr().err


@pytest.mark.slow
def test_a_compiled_run_of_two_processes_is_that_of_one_and_says_so(tmp_path):
    finish(script(tmp_path / "plain", "HELD"))
    finish(script(tmp_path / "compiled", "HELD", compiled=True))
    one, two = (Shelf(tmp_path / name).store.result(HELD) for name in ("plain", "compiled"))
    assert one is not None
    assert two is not None
    assert two.versions == {**one.versions, "compile": "inductor"}
    assert two.curves["loss"].value.tolist() == pytest.approx(one.curves["loss"].value.tolist(), rel=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(TorchVersion(torch.__version__) < (2, 6), reason="FSDP2 came with torch 2.6")
def test_a_sharded_run_comes_out_as_one_that_is_not_and_goes_on(tmp_path):
    run, names = HELD.but(steps=40), "HELD.but(steps=40), RUN.but(probes=('alignment',))"
    finish(script(tmp_path / "whole", names))
    processes = script(tmp_path / "shards", names, shard=True)
    log = tmp_path / "shards" / run.key / "log" / "steps.jsonl"
    deadline = time.monotonic() + 100
    while (not log.is_file() or log.stat().st_size < 10_000) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in processes:
        process.send_signal(signal.SIGINT)
    codes, _, err = ended(processes)
    assert codes == [130, 130], err
    saved = torch.load(log.with_name("checkpoint.pt"), weights_only=True)
    assert 0 < saved["progress"]["step"] < 40
    assert saved["optimizer"]["state"][0]["exp_avg"].shape == (32, 16)  # in one piece
    codes, out, err = ended(script(tmp_path / "shards", names, shard=True))
    assert codes == [2, 2], err
    assert "a run with probes is not sharded" in out[0]
    one, two = (Shelf(tmp_path / name).get(run) for name in ("whole", "shards"))
    assert one is not None
    assert two is not None
    for name in ("loss", "rotation"):
        assert two.curves[name][1] == pytest.approx(one.curves[name][1], rel=2e-3)
