import errno
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from irevla.data import lerobot
from irevla.data.episodes import EpisodeStore
from irevla.data.store_spec import StoreSpec, is_ours
from irevla.errors import UserError
from irevla.storage import disk
from irevla.types import Episode, Provenance

SPEC = StoreSpec("toy", (16, 12, 3), 4, 10, {"camera": "corner", "light": [1, 2]})


def episode(number: int, *, length: int = 5, task: str = "reach", success: bool = True) -> Episode:
    rng = np.random.default_rng(number)
    return Episode(
        images=rng.integers(0, 256, (length, 16, 12, 3), dtype=np.uint8),
        actions=rng.uniform(-1, 1, (length, 4)).astype(np.float32),
        rewards=np.array([0.0] * (length - 1) + [float(success)], np.float32),
        instruction=f"please {task}",
        success=success,
        provenance=Provenance("toy", task, seed=number, source="expert", noise=0.3, policy="abc"),
    )


def same(a: Episode, b: Episode) -> bool:
    arrays = all(
        np.array_equal(getattr(a, key), getattr(b, key)) for key in ("images", "actions", "rewards")
    )
    return arrays and (a.instruction, a.success, a.provenance) == (
        b.instruction,
        b.success,
        b.provenance,
    )


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    """Two files: episodes 0 and 1 in the first, episode 2, of another task, in the second."""
    store = EpisodeStore(tmp_path / "a store", SPEC)
    store.extend([episode(0, length=3), episode(1, length=7)])
    store.append(episode(2, task="push"))
    return store


def test_episodes_come_back_exactly(store: EpisodeStore) -> None:
    want = [episode(0, length=3), episode(1, length=7), episode(2, task="push")]
    again = EpisodeStore(store.root)
    assert again.spec == replace(SPEC, render={"camera": "corner", "light": [1, 2]})
    assert len(again) == 3
    assert again.counts() == {"reach": 2, "push": 1}
    assert all(same(a, b) for a, b in zip(again, want, strict=True))
    assert same(again[1], want[1])
    assert [info.total_reward for info in again.episodes] == [1.0, 1.0, 1.0]


def test_read_gives_all_frames(store: EpisodeStore) -> None:
    frames = store.read()
    want = [episode(0, length=3), episode(1, length=7), episode(2, task="push")]
    assert np.array_equal(frames.images, np.concatenate([e.images for e in want]))
    assert np.array_equal(frames.actions, np.concatenate([e.actions for e in want]))
    assert frames.episode.tolist() == [0] * 3 + [1] * 7 + [2] * 5
    assert [frames.instructions[i] for i in frames.instruction] == ["please reach"] * 10 + [
        "please push"
    ] * 5
    assert [frames.tasks[i] for i in frames.task] == ["reach"] * 10 + ["push"] * 5


def test_frames_are_decoded_once_until_there_are_more(store: EpisodeStore) -> None:
    frames = store.read()
    assert store.read() is frames
    store.append(episode(90))
    more = store.read()
    assert len(more) == len(frames) + 5 and store.read() is more
    np.testing.assert_array_equal(more.images[: len(frames)], frames.images)


def test_an_empty_store_can_be_read(tmp_path: Path) -> None:
    EpisodeStore(tmp_path / "s", SPEC)
    store = EpisodeStore(tmp_path / "s")
    assert len(store) == 0
    assert len(store.read()) == 0


def test_one_action_dimension(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "s", replace(SPEC, action_dim=1))
    one = replace(episode(0), actions=np.linspace(-1, 1, 5, dtype=np.float32)[:, None])
    store.append(one)
    assert np.array_equal(store.read().actions, one.actions)


def test_the_layout_is_that_of_v3(store: EpisodeStore) -> None:
    root = store.root
    info = json.loads((root / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"], info["fps"]) == (
        3,
        15,
        2,
        10,
    )
    assert "irevla" not in info, "LeRobot would warn of a key that it does not know"
    ours = json.loads((root / "meta/irevla.json").read_text())
    assert ours["render"] == {"camera": "corner", "light": [1, 2]}
    assert ours["instructions"] == {"reach": "please reach", "push": "please push"}

    table = pq.read_table(root / "data/chunk-000/file-000.parquet")
    assert table.column_names == list(info["features"])
    assert table.schema.field("action").type == pa.list_(pa.float32(), 4)
    hf = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert hf[lerobot.IMAGE] == {"_type": "Image"}
    assert hf["action"] == {
        "feature": {"dtype": "float32", "_type": "Value"},
        "length": 4,
        "_type": "List",
    }
    assert table["next.done"].to_pylist() == [False] * 2 + [True] + [False] * 6 + [True]
    assert table["next.success"].to_pylist() == table["next.done"].to_pylist()
    second = pq.read_table(root / "data/chunk-000/file-001.parquet")
    assert second["index"].to_pylist() == list(range(10, 15))
    assert second["timestamp"].to_pylist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert set(second["task_index"].to_pylist()) == {1}

    rows = pq.read_table(root / "meta/episodes").to_pylist()
    assert [(r["dataset_from_index"], r["dataset_to_index"]) for r in rows] == [
        (0, 3),
        (3, 10),
        (10, 15),
    ]
    assert [r["data/file_index"] for r in rows] == [0, 0, 1]
    assert [r["tasks"] for r in rows] == [["please reach"], ["please reach"], ["please push"]]
    assert rows[0]["irevla/seed"] == 0 and rows[0]["irevla/policy"] == "abc"


def test_tasks_are_indexed_as_pandas_does(store: EpisodeStore) -> None:
    table = pq.read_table(store.root / "meta/tasks.parquet")
    metadata = json.loads(table.schema.metadata[b"pandas"])
    assert metadata["index_columns"] == ["__index_level_0__"]
    assert [column["field_name"] for column in metadata["columns"]] == table.column_names
    assert table["__index_level_0__"].to_pylist() == ["please reach", "please push"]
    assert table["task_index"].to_pylist() == [0, 1]


def test_statistics_are_those_of_all_frames(store: EpisodeStore) -> None:
    frames = store.read()
    stats = json.loads((store.root / "meta/stats.json").read_text())
    np.testing.assert_allclose(
        stats["action"]["std"], frames.actions.astype(float).std(0), rtol=1e-9
    )
    pixels = frames.images / 255
    for name in ("min", "max", "mean", "std"):
        want = getattr(pixels, name)((0, 1, 2)).reshape(3, 1, 1)
        np.testing.assert_allclose(stats[lerobot.IMAGE][name], want, rtol=1e-9)
    assert stats[lerobot.IMAGE]["count"] == [15]


def test_an_online_store_takes_no_failures(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "s", replace(SPEC, kind="online"))
    with pytest.raises(AssertionError, match="failures"):
        store.extend([episode(0), episode(1, success=False)])
    assert len(store) == len(EpisodeStore(tmp_path / "s")) == 0
    EpisodeStore(tmp_path / "expert", SPEC).append(episode(1, success=False))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_shape": (16, 16, 3)}, "image_shape"),
        ({"action_dim": 7}, "action_dim = 4"),
        ({"render": {"camera": "top", "light": [1, 2]}}, "render.camera = 'corner', but 'top'"),
        ({"render": {}}, "render.camera"),
        ({"suite": "kitchen"}, "suite"),
        ({"kind": "online"}, "kind"),
    ],
)
def test_another_spec_is_refused(
    store: EpisodeStore, change: Mapping[str, Any], words: str
) -> None:
    before = files(store.root)
    with pytest.raises(UserError, match=words):
        EpisodeStore(store.root, replace(SPEC, **change))
    assert files(store.root) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_shape": (32, 32, 3)}, "say --env.image-size 12, or"),
        ({"fps": 7}, "say --env.action-repeat 2, or"),
        ({"state_dim": 3, "cameras": ("front",)}, "say --env.cameras --env.no-state, or"),
        ({"image_shape": (32, 32, 3), "action_dim": 7}, "action_dim = 4, .*the settings it was"),
    ],
)
def test_the_option_that_asks_for_what_is_there(
    tmp_path: Path, change: Mapping[str, Any], words: str
) -> None:
    spec = replace(SPEC, render={"action_repeat": 2})
    EpisodeStore(tmp_path / "own", spec)
    with pytest.raises(UserError, match=words):
        EpisodeStore(tmp_path / "own", replace(spec, **change))


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/diary.txt").write_text("dear diary")
    with pytest.raises(UserError, match="no dataset of irevla"):
        EpisodeStore(tmp_path / "notes", SPEC)
    with pytest.raises(UserError, match="is a file"):
        EpisodeStore(tmp_path / "notes/diary.txt", SPEC)
    with pytest.raises(UserError, match="no dataset in"):
        EpisodeStore(tmp_path / "nowhere")
    assert files(tmp_path) == {"notes/diary.txt": b"dear diary"}


def as_version_0_2(root: Path) -> None:
    """Our own facts were in info.json then."""
    path = root / "meta/info.json"
    ours = root / "meta/irevla.json"
    info = json.loads(path.read_text()) | {"irevla": json.loads(ours.read_text())}
    path.write_text(json.dumps(info, indent=1))
    ours.unlink()


def test_a_dataset_of_version_0_2_is_read_and_goes_on(store: EpisodeStore) -> None:
    want = files(store.root)
    as_version_0_2(store.root)
    assert is_ours(store.root)
    old = EpisodeStore(store.root, SPEC)
    assert same(old[2], episode(2, task="push")) and old.hash() == store.hash()
    old.append(episode(3))
    store = EpisodeStore(store.root, SPEC)
    assert len(store) == 4
    assert "irevla" not in json.loads((store.root / "meta/info.json").read_text())
    assert files(store.root)["meta/irevla.json"] == want["meta/irevla.json"]


def test_a_dataset_of_others_is_refused(store: EpisodeStore) -> None:
    path = store.root / "meta/info.json"
    (store.root / "meta/irevla.json").unlink()
    assert not is_ours(store.root)
    with pytest.raises(UserError, match="not one that this version"):
        EpisodeStore(store.root, SPEC)
    path.write_text("{")
    with pytest.raises(UserError, match=r"info\.json is damaged"):
        EpisodeStore(store.root, SPEC)


@pytest.mark.parametrize("how", ["flip", "truncate", "empty", "other"])
def test_a_corrupt_data_file_is_named(store: EpisodeStore, how: str) -> None:
    path = store.root / "data/chunk-000/file-000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    other = (store.root / "data/chunk-000/file-001.parquet").read_bytes()  # sound in itself
    path.write_bytes(
        {"flip": bytes(data), "truncate": bytes(data[:-100]), "empty": b"", "other": other}[how]
    )
    before = files(store.root)
    again = EpisodeStore(store.root, SPEC)
    for read in (again.read, lambda: list(again), lambda: again[1]):
        with pytest.raises(UserError, match=r"episodes 0 to 1 .*file-000\.parquet.* corrupt"):
            read()
    assert same(again[2], episode(2, task="push"))
    assert files(store.root) == before


@pytest.mark.parametrize("name", ["meta/episodes/chunk-000/file-001.parquet", "meta/tasks.parquet"])
def test_corrupt_metadata_are_named(store: EpisodeStore, name: str) -> None:
    path = store.root / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=f"{path.name}.* corrupt"):
        EpisodeStore(store.root)


def test_missing_files_are_named(store: EpisodeStore) -> None:
    data = store.root / "data/chunk-000/file-000.parquet"
    data.rename(store.root / "away")
    with pytest.raises(UserError, match=r"episodes 0 to 1 .* missing"):
        EpisodeStore(store.root)
    (store.root / "away").rename(data)
    rows = store.root / "meta/episodes/chunk-000/file-001.parquet"
    rows.unlink()
    with pytest.raises(UserError, match="of 3 episodes 2 are left"):
        EpisodeStore(store.root)
    assert (store.root / "data/chunk-000/file-001.parquet").exists()


def test_a_corrupt_picture_is_named(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was broken before it was written, so that the file's hash agrees."""
    good = lerobot.encode_pngs

    def broken(images: np.ndarray) -> list[bytes]:
        pngs = good(images)
        return [*pngs[:2], pngs[2][:60], *pngs[3:]]

    monkeypatch.setattr(lerobot, "encode_pngs", broken)
    store.append(episode(3))
    with pytest.raises(UserError, match=r"episode 3 .*file-002\.parquet.* frame 2 is corrupt"):
        store.read()


def test_a_full_disk_loses_nothing(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(store.root)
    write = disk.write_synced
    for failing in range(6):  # each of the six files in turn
        count = itertools.count()

        def full(path: Path, content: bytes, failing: int = failing, count: Any = count) -> None:
            if next(count) == failing:
                write(path, content[: len(content) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            write(path, content)

        monkeypatch.setattr(disk, "write_synced", full)
        with pytest.raises(UserError, match="No space left on device; make room"):
            store.append(episode(3))
        assert files(store.root) == before
    monkeypatch.undo()
    store.append(episode(3))
    assert same(EpisodeStore(store.root)[3], episode(3))


class Killed(BaseException):
    pass


def test_killed_at_any_point_and_resumed_ends_with_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop before each rename in turn, open again, append what is missing: the bytes are those of
    one never stopped."""
    wanted = [[episode(0)], [episode(1, task="push"), episode(2)], [episode(3)]]
    whole = EpisodeStore(tmp_path / "whole", SPEC)
    for part in wanted:
        whole.extend(part)
    rename = Path.rename
    for stop in range(22):
        calls = itertools.count()

        def dying(self: Path, target: Path, stop: int = stop, calls: Any = calls) -> Path:
            if next(calls) == stop:
                raise Killed
            return rename(self, target)

        root = tmp_path / str(stop)
        monkeypatch.setattr(Path, "rename", dying)
        with pytest.raises(Killed):
            store = EpisodeStore(root, SPEC)
            for part in wanted:
                store.extend(part)
        monkeypatch.undo()
        store = EpisodeStore(root, SPEC)
        assert len(store) in (0, 1, 3, 4)  # extend is all or nothing
        assert len(list((root / "data").rglob("*.parquet"))) == store._files
        for part in wanted:
            if part[0].provenance.seed >= len(store):
                store.extend(part)
        assert files(root) == files(tmp_path / "whole"), stop


WRITER = """
import sys, itertools
from pathlib import Path
from tests.data.test_episodes import SPEC, episode
from irevla.data.episodes import EpisodeStore
store = EpisodeStore(Path(sys.argv[1]), SPEC)
print("ready", flush=True)
for _ in itertools.count():
    store.append(episode(len(store), length=20))
"""


@pytest.mark.timeout(400)  # a machine that stands still for a minute was seen
def test_kill_9_leaves_whole_episodes_only(tmp_path: Path) -> None:
    root = tmp_path / "s"
    repository = Path(__file__).parents[2]
    seen = 0
    for delay in (0.05, 0.11, 0.17, 1.0, 5.0):
        if delay >= 1 and seen:
            break  # the long ones are for a busy machine, where nothing has been written yet
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root)],
            cwd=repository,
            stdout=subprocess.PIPE,
            env=dict(os.environ),
        )
        assert writer.stdout is not None
        try:
            writer.stdout.readline()
            time.sleep(delay)
        finally:
            writer.kill()
            writer.wait()
            writer.stdout.close()
        store = EpisodeStore(root, SPEC)
        assert len(store) >= seen
        seen = len(store)
        assert all(same(found, episode(number, length=20)) for number, found in enumerate(store))
        assert json.loads((root / "meta/info.json").read_text())["total_episodes"] == seen
        assert not (root / disk.STAGING).exists()
    assert seen > 0


def test_two_writers_take_turns(store: EpisodeStore) -> None:
    other = EpisodeStore(store.root)
    other.append(episode(3))
    store.append(episode(4))
    again = EpisodeStore(store.root)
    assert [info.provenance.seed for info in again.episodes] == [0, 1, 2, 3, 4]
    assert same(again[4], episode(4))


def test_a_reader_leaves_a_writer_alone(store: EpisodeStore) -> None:
    with disk.locked(store.root):
        (store.root / disk.STAGING).mkdir()
        assert len(EpisodeStore(store.root)) == 3
        assert (store.root / disk.STAGING).exists()
    EpisodeStore(store.root)
    assert not (store.root / disk.STAGING).exists()
