"""The fault injector of `make attack`: a few of each fault, and that it sees what it looks for."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from injector import corruptions, disks, files, kills, lives, mutations, workers
from injector.settings import FIRST, PPO, Kind, reference
from injector.tally import Tally
from irevla.errors import UserError

COLLECT = Kind("collect", lives.changed(PPO, expert={"episodes": 60}), pace=4.0)
WHOLE = Kind("ppo", lives.changed(PPO, sft={"steps": 30}, sl={"steps": 20}, ppo={"steps": 192}))
SLEEPS = "import time; print(flush=True); time.sleep(60)"
TRAINED = Kind("sft", lives.changed(FIRST, expert={"episodes": 6}, sft={"steps": 20}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attack")


@pytest.mark.parametrize("kind", [COLLECT, WHOLE], ids=lambda kind: kind.name)
def test_killed_at_random_moments_all_ends_alike(kind: Kind, folder: Path) -> None:
    tally = Tally("kills", 0)
    kills.one_run(tally, 0, kind, folder=folder, most=3, mean=1.5)
    assert tally.counts[f"runs of {kind.name}"] == 1 and not tally.faults
    assert tally.counts["kills"] > 1


def test_a_full_disk_is_told_and_goes_on(folder: Path) -> None:
    tally = Tally("disks", 0)
    mounts = disks.can_mount(folder)
    disks.one_case(tally, 0, COLLECT, folder=folder, mounts=mounts)
    assert tally.counts["mounted" if mounts else "limited"] == 1 and not tally.faults


def test_damage_is_told_or_harmless(folder: Path) -> None:
    tally = Tally("corruptions", 0)
    base = corruptions.finished(TRAINED, folder)
    assert len(base.truth["eval"]) == 3 and base.truth["run"] == base.truth["report"] != []
    corruptions.one_case(tally, 0, base)
    assert tally.counts["damages"] == 1 and not tally.faults


def test_hit_workers_play_the_same(folder: Path) -> None:
    tally = Tally("workers", 0)
    workers.hit_until(tally, "collection", workers.collection, count=2, first=0, folder=folder)
    assert tally.counts["hits in collection"] == 2 and not tally.faults


# --- What it would see


def test_other_bytes_leftovers_and_other_counts_are_seen(folder: Path) -> None:
    whole = reference(COLLECT, folder)
    tally = Tally("kills", 1)
    unlike = replace(COLLECT, config=lives.changed(COLLECT.config, expert={"noise": 0.2}))
    kills.one_run(tally, 0, unlike, folder=folder, most=0, mean=1.5)
    assert "other bytes: expert/data" in tally.faults[0]
    (whole / ".results.json.new").touch()
    assert lives.leftovers(whole) == [".results.json.new"]
    (whole / ".results.json.new").unlink()


def test_a_worker_that_outlives_its_run_is_seen(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lives, "SOON", 0.1)
    life = lives.Life(folder / "said.log", os._exit, 3)
    assert life.ended(lives.LONGEST) and life.code == 3 and lives.orphans([life]) == []
    words = [sys.executable, "-c", SLEEPS, "-m", "x", str(life.pid)]
    orphan = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert orphan.stdout is not None
    try:
        orphan.stdout.readline()
        assert len(lives.orphans([life])) == 1
    finally:
        orphan.kill()
        orphan.communicate()


@pytest.mark.parametrize(
    ("raised", "told"),
    [(None, ""), (UserError("it is damaged"), "UserError"), (KeyError(3), "Key")],
)
def test_what_a_reader_lets_out_is_told(
    tmp_path: Path, raised: Exception | None, told: str
) -> None:
    base, copy = tmp_path / "base", tmp_path / "copy"
    for place in (base, copy):
        place.mkdir()
        (place / "x.json").write_text('{"a": [1, 2]}')

    def read(run: Path) -> Any:
        assert (run / "x.json").read_bytes() != (base / "x.json").read_bytes()
        if raised is not None:
            raise raised

    reader = files.Reader("x.json", read, files.json_tree)
    said, escape = files.one_case(Tally("files", 0).luck(1), reader, base, copy)
    assert said and escape.startswith(told) and bool(escape) == bool(told)
    assert (copy / "x.json").read_bytes() == (base / "x.json").read_bytes()


def test_a_case_is_the_same_whenever_it_is_drawn() -> None:
    tree = {"a": [1, {"b": "text"}], "c": None}
    drawn = [mutations.mutate_tree(Tally("files", 0).luck(n), tree) for n in (*range(40), 7)]
    assert repr(drawn[7]) == repr(drawn[40]) and len({said for _, said in drawn}) > 20
    assert tree == {"a": [1, {"b": "text"}], "c": None}
