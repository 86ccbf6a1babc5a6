"""Weights in files of all kinds, as `rotational plan --weights` meets them: checkpoints, damaged files, masks."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch

from compare import assert_same
from rotational import weights
from rotational.cli import main

W = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
RUN = ("plan", "--optimizer", "adamw", "--lr", "1e-3", "--weight-decay", "0.1", "--steps", "300")


def names(state, path):
    torch.save(state, path)
    return [m.name for m in weights.read(path)]


def header(path, entries, blob=b""):
    head = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + blob)
    return path


def entry(begin, end, shape=(4, 4), dtype="F32"):
    return {"w": {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}}


def test_the_weights_are_found_beside_an_optimizers_memories(tmp_path):
    p = torch.nn.Parameter(W.clone())
    opt = torch.optim.AdamW([p])
    p.grad = torch.ones_like(p)
    opt.step()
    path = tmp_path / "x.pt"
    for state in (
        {"net": {"a": W}, "epoch": 3},
        {"optimizer": opt.state_dict(), "model": {"a": W}},
        {"optim": {"state": {"a": {"exp_avg": W}}}, "module": {"a": W, "b": torch.ones(3)}},
        {"ema": {"b": 2 * W}, "model": {"state_dict": {"a": W}}},  # usual names before others
    ):
        assert names(state, path) == ["a"]
    torch.save(opt.state_dict(), path)
    with pytest.raises(ValueError, match="holds no matrix"):
        weights.read(path)


def test_what_is_no_dense_matrix_is_passed_over(tmp_path):
    mask = torch.tril(torch.ones(6, 6))[None, None]
    state = {"mask": mask, "sparse": W.to_sparse(), "meta": W.to("meta"), "whole": torch.arange(6).reshape(2, 3)}
    state |= {"cls": W[:1][None], "pos": W[None], "zero": torch.zeros(4, 3), "small": W.to(torch.float8_e4m3fn)}
    path = tmp_path / "x.pt"
    assert names(state, path) == ["cls", "pos", "zero"]
    found = weights.read(path)[1]
    assert found[1:3] == (12, 5)  # positions are the neurons, whatever axes of one stand before them
    assert_same(found.norm, float((W.double() ** 2).sum(1).mean().sqrt()), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_norms_are_summed_in_double(tmp_path, dtype):
    x = (1e-3 + torch.rand(300, 700, dtype=torch.float64)).to(dtype)
    torch.save({"w": x}, tmp_path / "x.pt")
    assert_same(weights.read(tmp_path / "x.pt")[0].norm, float((x.double() ** 2).sum(1).mean().sqrt()), 1e-12)


def test_safetensors_are_known_by_their_header(tmp_path):
    x = W.numpy()
    for name in ("model.safetensors", "model.bin", "model"):
        path = header(tmp_path / name, entry(0, x.nbytes, x.shape), x.tobytes())
        assert [m.name for m in weights.read(path)] == ["w"]


@pytest.mark.parametrize(
    "entries",
    [
        entry(-20, 44),
        entry(0, 64 + 4),
        entry(44, 20),
        entry(0, 64, shape=(-4, -4)),
        entry(0, 64, shape=(-1, 4)),
        entry(0, 64, shape=(4, 5)),
        entry(0, 9000, shape=(9,), dtype="I8"),  # cut off behind what is read of it
        {"w": None},
        [],
    ],
)
def test_a_damaged_safetensors_file_is_refused(tmp_path, entries):
    path = header(tmp_path / "x.safetensors", entries, bytes(64))
    with pytest.raises(ValueError, match=r"x\.safetensors.*damaged") as error:
        weights.read(path)
    assert "\n" not in str(error.value)


def test_a_torch_file_that_was_cut_off_is_a_sentence(tmp_path):
    torch.save({"w": W}, tmp_path / "whole.pt")
    data = (tmp_path / "whole.pt").read_bytes()
    for share in (0.1, 0.5, 0.95):
        (tmp_path / "cut.pt").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ValueError, match="no checkpoint of plain tensors") as error:
            weights.read(tmp_path / "cut.pt")
        assert "\n" not in str(error.value)


def test_the_parts_of_a_checkpoint_are_read_together(tmp_path, capsys):
    parts = [tmp_path / f"model-{i}.pt" for i in range(2)]
    for i, path in enumerate(parts):
        torch.save({f"{i}.weight": 10.0**i * W}, path)
    assert main([*RUN, "--weights", *map(str, parts), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {kind["name"]: kind["norm"] for kind in found["kinds"]} == pytest.approx(
        {f"{i}.weight": 10.0**i * np.sqrt(np.sum(np.square(W.numpy())) / 12) for i in range(2)}, rel=1e-6
    )
    assert any("Rows" in note for note in found["notes"])
