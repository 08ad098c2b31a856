import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from irevla.errors import UserError
from irevla.storage import checkpoint
from irevla.storage.checkpoint import (
    Checkpoints,
    CorruptCheckpoint,
    load,
    load_optimizer,
    optimizer_tensors,
    save,
    series_name,
    split_name,
)

FILES = {
    "weights.safetensors": {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(2)},
    "state.json": {"step": 7},
}


def test_tensors_and_json_come_back_as_they_were(tmp_path: Path) -> None:
    transposed = torch.randn(3, 2).t()
    tied = torch.randn(4)
    tensors = {
        "t": transposed,
        "x": tied,
        "y": tied,
        "scalar": torch.tensor(3),
        "half": torch.ones(2).bfloat16(),
    }
    save(
        tmp_path / "sft",
        {"weights.safetensors": tensors, "state.json": {"lr": 1e-3, "names": ["a", None]}},
    )
    back = load(tmp_path / "sft")
    assert back["state.json"] == {"lr": 1e-3, "names": ["a", None]}
    for name, tensor in tensors.items():
        assert back["weights.safetensors"][name].dtype == tensor.dtype
        assert torch.equal(back["weights.safetensors"][name], tensor)
    back["weights.safetensors"]["x"] += 1  # not a view of a file


def test_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(tmp_path / name / "sft", FILES)
    for path in (tmp_path / "one" / "sft").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "sft" / path.name).read_bytes()


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    save(tmp_path / "sft", FILES)
    save(tmp_path / "sft", {"state.json": {"step": 8}})
    assert load(tmp_path / "sft") == {"state.json": {"step": 8}}
    assert [path.name for path in tmp_path.iterdir()] == ["sft"]


def test_one_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = checkpoint._manifest
    save(tmp_path / "a", {"config.json": {"old": 1}})

    def replaced(directory: Path) -> dict[str, Any]:
        manifest = read(directory)
        if "old" in (directory / "config.json").read_text():
            save(directory, {"config.json": {"another": 2}})
        return manifest

    monkeypatch.setattr(checkpoint, "_manifest", replaced)
    assert load(tmp_path / "a") == {"config.json": {"another": 2}}


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", "MANIFEST.json"])
def test_a_flipped_bit_is_found_and_named(tmp_path: Path, name: str) -> None:
    save(tmp_path / "sft", FILES)
    path = tmp_path / "sft" / name
    data = bytearray(path.read_bytes())
    data[len(data) - 12] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptCheckpoint, match="sft"):
        load(tmp_path / "sft")


@pytest.mark.parametrize("name", ["weights.safetensors", "MANIFEST.json"])
def test_a_missing_file_is_found_and_named(tmp_path: Path, name: str) -> None:
    save(tmp_path / "sft", FILES)
    (tmp_path / "sft" / name).unlink()
    with pytest.raises(CorruptCheckpoint, match=name):
        load(tmp_path / "sft")


def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "sft", FILES)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left on device"):
        patch.setattr(os, "fsync", full)
        save(tmp_path / "sft", {"state.json": {"step": 8}})
    assert load(tmp_path / "sft")["state.json"] == {"step": 7}
    assert [path.name for path in tmp_path.iterdir()] == ["sft"]


def test_what_a_kill_left_of_something_deleted_goes_with_the_next_look(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for number in (1, 2):
        checkpoints.save(f"sft-{number:06d}", {"a.json": number})
    (tmp_path / "sft-000001").rename(tmp_path / ".sft-000001.trash")
    found = checkpoints.newest("rl")
    assert found is None and [path.name for path in tmp_path.iterdir()] == ["sft-000002"]


@pytest.mark.parametrize("finished", [True, False])
def test_killed_between_the_renames(tmp_path: Path, finished: bool) -> None:
    save(tmp_path / "sft-000001", FILES)
    (tmp_path / "sft-000001").rename(tmp_path / ".sft-000001.old")
    if finished:
        save(tmp_path / "aside" / "sft-000001", {"state.json": {"step": 8}})
        (tmp_path / "aside" / "sft-000001").rename(tmp_path / ".sft-000001.new")
    found = Checkpoints(tmp_path).newest("sft")
    assert found is not None
    assert found[1]["state.json"] == {"step": 8 if finished else 7}


KILL_LOOP = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from irevla.storage.checkpoint import Checkpoints, load, series_name

torch.set_num_threads(1)
root, random_ = Path(sys.argv[1]), random.Random(0)
number, alone, reached = 0, 0, set()
for trial in range(120):
    if trial >= 30 and len(reached) > 5:
        break  # the others are for a busy machine, where a child may not get far
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        checkpoints = Checkpoints(root)
        while True:
            number += 1
            weights = {"w": torch.full((50_000,), float(number))}
            files = {"w.safetensors": weights, "s.json": {"n": number}}
            checkpoints.save(series_name("sft", number), files)
            checkpoints.save("alone", files)
            os.write(write, number.to_bytes(4, "little"))
    os.close(write)
    time.sleep(random_.uniform(0.01, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told = os.read(read, 1 << 16)
    last = int.from_bytes(told[-4:], "little")  # 0: killed before the first was whole
    os.close(read)
    checkpoints = Checkpoints(root)
    newest = checkpoints.newest("sft")
    assert not checkpoints.passed_over, checkpoints.passed_over
    if newest is not None:
        number = newest[1]["s.json"]["n"]
        assert number >= last and bool((newest[1]["w.safetensors"]["w"] == number).all())
        assert newest[0].name == series_name("sft", number)
    if last:
        alone = last
    if alone:
        assert load(root / "alone")["s.json"]["n"] >= alone
    reached.add(number)
assert len(reached) > 5, reached
Checkpoints(root).save(series_name("sft", number + 1), {"s.json": {}})
assert len(list(root.glob("sft-*"))) == 2, "what the killed ones did not tidy up stays"
"""


def test_kill_at_any_moment_leaves_a_whole_newest_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILL_LOOP, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr


def test_of_a_series_the_newest_stay_and_other_names_always(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for name in ("sft", "rl:knob-1", "rl:knob-000001"):
        checkpoints.save(name, FILES)
    for step in (900, 1000, 1100):
        checkpoints.save(series_name("sft", step), FILES)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"sft", "rl:knob-1", "rl:knob-000001", "sft-001000", "sft-001100"}
    checkpoints.drop("sft")
    assert {path.name for path in tmp_path.iterdir()} == {"sft", "rl:knob-1", "rl:knob-000001"}


def test_with_its_series_goes_what_a_kill_left_of_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("sl-left@2-000010", FILES)
    (tmp_path / "sl-left@2-000010").rename(tmp_path / ".sl-left@2-000020.new")
    checkpoints.save("sl-left-000010", FILES)
    checkpoints.drop("sl-left")
    assert (tmp_path / ".sl-left@2-000020.new").exists()
    checkpoints.drop("sl-left@2")
    assert list(tmp_path.iterdir()) == []


def test_names_and_numbers() -> None:
    assert split_name(series_name("rl:door-open-new", 51_200)) == ("rl:door-open-new", 51_200)
    assert split_name("rl:knob-1") is None
    assert series_name("sft", 2_000_000) == "sft-2000000"


def corrupt(directory: Path) -> None:
    (directory / "state.json").write_text("{}")


def test_the_newest_passes_over_corrupt_ones_and_says_so(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert checkpoints.newest("sft") is None
    for step in (1, 2, 3):
        checkpoints.save(series_name("sft", step), {"state.json": {"step": step}})
    corrupt(tmp_path / "sft-000003")
    found = checkpoints.newest("sft")
    assert found is not None and found[0].name == "sft-000002"
    assert len(checkpoints.passed_over) == 1 and "sft-000003" in checkpoints.passed_over[0]


def test_corrupt_later_ones_do_not_push_out_good_ones(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (10, 20):
        checkpoints.save(series_name("sft", step), {"state.json": {"step": step}})
    corrupt(tmp_path / "sft-000020")
    for step in (11, 12, 13):
        checkpoints.save(series_name("sft", step), {"state.json": {"step": step}})
    found = checkpoints.newest("sft")
    assert found is not None and found[0].name == "sft-000013"
    assert (tmp_path / "sft-000012").exists()


def test_all_corrupt_is_an_error_and_never_a_fresh_start(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("sft-000001", {"state.json": {}})
    (tmp_path / "sft-000001" / "state.json").unlink()
    with pytest.raises(CorruptCheckpoint, match="delete them to repeat"):
        checkpoints.newest("sft")


def fit(model: torch.nn.Module, opt: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        opt.zero_grad()
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        opt.step()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=1e-2),
        lambda p: torch.optim.Adam([{"params": [each], "lr": 1e-2} for each in p], amsgrad=True),
    ],
)
def test_an_optimizer_goes_on_bit_for_bit(
    tmp_path: Path, make: Callable[..., torch.optim.Optimizer]
) -> None:
    whole, half = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    half.load_state_dict(whole.state_dict())
    opt = make(list(whole.parameters()))
    fit(whole, opt, range(6))
    opt = make(list(half.parameters()))
    fit(half, opt, range(3))
    save(
        tmp_path / "x",
        {"o.safetensors": optimizer_tensors(opt), "m.safetensors": half.state_dict()},
    )

    resumed, back = torch.nn.Linear(3, 2), load(tmp_path / "x")
    resumed.load_state_dict(back["m.safetensors"])
    opt = make(list(resumed.parameters()))
    load_optimizer(opt, back["o.safetensors"])
    fit(resumed, opt, range(3, 6))
    assert torch.equal(resumed.weight, whole.weight) and torch.equal(resumed.bias, whole.bias)
    assert float(optimizer_tensors(opt)["0.step"]) == 6


def test_optimizer_state_lies_in_memory_as_its_parameter_does() -> None:
    """Fused Adam walks over both without looking at strides: another layout would mix up the
    weights."""
    conv = torch.nn.Conv2d(3, 4, 3)
    conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    opt = torch.optim.AdamW(conv.parameters(), fused=True)
    conv(torch.randn(2, 3, 8, 8)).square().mean().backward()
    opt.step()
    saved = {
        name: value.contiguous() for name, value in optimizer_tensors(opt).items()
    }  # as safetensors has them
    load_optimizer(opt, saved)
    assert opt.state[conv.weight]["exp_avg"].stride() == conv.weight.stride()
    assert torch.equal(opt.state[conv.weight]["exp_avg"], saved["0.exp_avg"])


def test_the_optimizer_of_another_model_is_refused() -> None:
    opt = torch.optim.Adam(torch.nn.Linear(3, 2).parameters())
    with pytest.raises(UserError, match="another model"):
        load_optimizer(opt, {"0.exp_avg": torch.zeros(5, 5)})
    with pytest.raises(UserError, match="another model"):
        load_optimizer(opt, {"2.exp_avg": torch.zeros(2)})
