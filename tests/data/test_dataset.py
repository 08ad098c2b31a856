"""Datasets that others recorded: read right, or refused in one line before anything is written."""

import io
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from recorded import (
    DATA,
    EPISODES,
    FRAMES,
    FRONT,
    IMAGES,
    INSTRUCTIONS,
    VIDEOS,
    all_frames,
    as_v21,
    colours,
    copied,
    edit_info,
    edit_table,
    get_column,
    set_action,
    set_column,
    shown,
    split_data,
)

from irevla.data import demonstrated
from irevla.data.camera import find_camera
from irevla.data.dataset import Dataset
from irevla.data.demonstrated import Demonstrated, Wanted
from irevla.errors import UserError
from irevla.storage import disk
from irevla.tasks import plain

ONE = np.ones(2, np.float32)
FROM = "videos/observation.images.front/from_timestamp"
WANTED = Wanted("toy", INSTRUCTIONS, -ONE, ONE, 10.0, 24)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(disk.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "frames"


def opened(root: Path, *, camera: str = "", stride: int = 1, **wanted: Any) -> Demonstrated:
    return Demonstrated(root, replace(WANTED, **wanted), camera=camera, stride=stride)


def videos(root: Path) -> Demonstrated:
    return opened(root, camera="front", stride=3)


# --- What is read


def _feature(root: Path, name: str, **changes: Any) -> None:
    """Change what info.json says of one feature; None: it says nothing of that."""
    features = json.loads((root / "meta/info.json").read_text())["features"]
    told = features.get(name, {}) | changes
    features[name] = {key: value for key, value in told.items() if value != ()}
    edit_info(root, features=features)


def _no_vectors(root: Path) -> None:
    rows = [["a", "b"]] * sum(FRAMES)
    edit_table(root / DATA, lambda table: table.drop_columns("observation.state"))
    edit_table(root / DATA, lambda table: table.append_column("observation.state", pa.array(rows)))


def _plain_images(root: Path) -> None:
    """Keep images as bytes alone, without a group that has their path too."""
    name = "observation.images.front"

    def changed(table: pa.Table) -> pa.Table:
        packed = pa.array([each["bytes"] for each in table[name].to_pylist()])
        return table.set_column(table.column_names.index(name), name, packed)

    edit_table(root / DATA, changed)


def _two_columns(root: Path) -> None:
    kinds = pa.array(["easy"] * len(INSTRUCTIONS))
    edit_table(root / "meta/tasks.parquet", lambda table: table.add_column(0, "kind", kinds))


HEALTHY: dict[str, Callable[[Path], None]] = {
    "a state of two dimensions": lambda root: _feature(root, "observation.state", shape=[2, 2]),
    "a state without a shape": lambda root: _feature(root, "observation.state", shape=()),
    "a state of no numbers": _no_vectors,
    "a camera without a shape": lambda root: _feature(root, "observation.images.front", shape=None),
    "images without paths": _plain_images,
    "tasks with another column": _two_columns,
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_what_nobody_asks_of_a_dataset_is_no_damage(kind: str, tmp_path: Path) -> None:
    root = copied(IMAGES, tmp_path / "own")
    HEALTHY[kind](root)
    found = opened(root).read()
    want = opened(IMAGES).read()
    np.testing.assert_array_equal(found.images, want.images)
    np.testing.assert_array_equal(found.actions, want.actions)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("a state of two dimensions", "has no vector in"), ("a state of no numbers", "is damaged")],
)
def test_a_state_that_somebody_asks_for(kind: str, message: str, tmp_path: Path) -> None:
    root = copied(IMAGES, tmp_path / "own")
    HEALTHY[kind](root)
    with pytest.raises(UserError, match=message):
        opened(root, state_dim=3)


@pytest.mark.parametrize("value", [3e38, 1e300, -1e300])
def test_an_action_far_outside_is_told_as_such(value: float, tmp_path: Path) -> None:
    root = copied(IMAGES, tmp_path / "own")
    actions = [[value, 0.0], *get_column(root / DATA, "action")[1:]]

    def changed(table: pa.Table) -> pa.Table:
        doubles = pa.array(actions, pa.list_(pa.float64()))
        return table.set_column(table.column_names.index("action"), "action", doubles)

    edit_table(root / DATA, changed)
    with pytest.raises(UserError, match=r"an action is -?3.*e\+38 .*takes -1 to 1: scale them"):
        opened(root)


@pytest.mark.parametrize(
    ("root", "camera", "stride", "episodes"),
    [
        (IMAGES, "", 1, (1, 3, 0, 2)),  # success is not recorded: all count
        (VIDEOS, "front", 3, (1, 0, 2)),  # the last one failed
        (VIDEOS, "observation.images.wrist", 3, (1, 0, 2)),
    ],
)
def test_each_decision_has_the_image_and_the_action_of_one_frame(
    root: Path, camera: str, stride: int, episodes: tuple[int, ...]
) -> None:
    frames = opened(root, camera=camera, stride=stride).read()
    expected = all_frames(episodes, stride)
    assert frames.images.shape == (len(expected), 24, 24, 3)
    actions = [(episode / 10, frame / 50) for episode, frame in expected]
    np.testing.assert_allclose(frames.actions, actions, atol=1e-6)
    found = 255 - frames.images if "wrist" in camera else frames.images
    # A video is not exact, and the next frame differs by 10.
    exact = 0 if root is IMAGES else 4
    assert np.abs(colours(found) - [shown(*each) for each in expected]).max() <= exact
    numbers = [episodes.index(episode) for episode, _ in expected]
    assert frames.episode.tolist() == numbers
    texts = [frames.instructions[number] for number in frames.instruction]
    assert texts == [list(INSTRUCTIONS.values())[1 - episode % 2] for episode, _ in expected]
    assert [frames.tasks[number] for number in frames.task] == [
        "left" if episode % 2 else "right" for episode, _ in expected
    ]


@pytest.mark.parametrize(("source", "chunk"), [(IMAGES, 1000), (IMAGES, 3), (VIDEOS, 1000)])
def test_a_dataset_of_version_2_is_read_as_it_is(tmp_path: Path, source: Path, chunk: int) -> None:
    root = as_v21(source, tmp_path / "old", chunk=chunk)
    assert not list(root.rglob("file-*")) and not (root / "meta/tasks.parquet").exists()
    read = opened if source is IMAGES else videos
    found, want = read(root), read(source)
    assert found.counts() == want.counts() and found.notes == want.notes
    frames, same = found.read(), want.read()
    np.testing.assert_array_equal(frames.actions, same.actions)
    np.testing.assert_array_equal(frames.task, same.task)
    off = np.abs(frames.images.astype(int) - same.images).max()
    assert off == 0 if source is IMAGES else off < 40  # it was compressed twice, edges suffer
    if source is VIDEOS:
        assert np.abs(colours(frames.images) - colours(same.images)).max() <= 6
    edit_info(root, codebase_version="v2.0")
    assert opened(root, camera=found._cameras[0].key, stride=found._stride).counts()


SPOILT_V2: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no episodes": (lambda root: (root / "meta/episodes.jsonl").write_text(""), "no episodes"),
    "no JSON": (lambda root: (root / "meta/tasks.jsonl").write_text("{"), "tasks.jsonl, line 1"),
    "no lines": (lambda root: (root / "meta/tasks.jsonl").write_text("[]"), "damaged"),
    "a line twice": (
        lambda root: (root / "meta/episodes.jsonl").write_text(
            (root / "meta/episodes.jsonl").read_text() * 2
        ),
        "told twice",
    ),
    "a missing episode": (
        lambda root: (root / "data/chunk-000/episode_000002.parquet").unlink(),
        "episode_000002.parquet is missing",
    ),
    "other lengths": (
        lambda root: (root / "meta/episodes.jsonl").write_text(
            (root / "meta/episodes.jsonl").read_text().replace('"length": 9', '"length": 8')
        ),
        "35 frames, its episodes 34",
    ),
    "no folders": (lambda root: edit_info(root, chunks_size=0), "0 files in a folder"),
}


@pytest.mark.parametrize("kind", SPOILT_V2)
def test_a_spoilt_dataset_of_version_2(tmp_path: Path, kind: str) -> None:
    root = as_v21(IMAGES, tmp_path / "old")
    spoil, message = SPOILT_V2[kind]
    spoil(root)
    with pytest.raises(UserError, match=message) as error:
        opened(root)
    assert "\n" not in str(error.value)


def test_more_files_in_a_folder_than_ours(tmp_path: Path) -> None:
    """LeRobot's chunks_size is a setting: its file 1500 of chunk 0 is in no chunk 1."""
    root = copied(IMAGES, tmp_path / "images")
    edit_info(root, chunks_size=2000)
    split_data(root, 2)
    for number, name in enumerate((999, 1000)):  # as text the other way round
        found = root / f"data/chunk-000/file-{number:03d}.parquet"
        found.rename(found.with_name(f"file-{name:03d}.parquet"))
    set_column(root / EPISODES, "data/file_index", [999, 999, 1000, 1000])
    np.testing.assert_array_equal(opened(root).read().images, opened(IMAGES).read().images)
    root = copied(VIDEOS, tmp_path / "videos")
    edit_info(root, chunks_size=2000)
    (root / FRONT).rename((root / FRONT).with_name("file-1500.mp4"))
    set_column(root / EPISODES, "videos/observation.images.front/file_index", [1500] * 4)
    np.testing.assert_array_equal(videos(root).read().images, videos(VIDEOS).read().images)


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_files_are_where_info_json_says(tmp_path: Path, version: str) -> None:
    old = version == "v2.1"
    root = as_v21(VIDEOS, tmp_path / "data") if old else copied(VIDEOS, tmp_path / "data")
    want = videos(root).read()
    (root / "data").rename(root / "frames")
    (root / "videos").rename(root / "films")
    info = json.loads((root / "meta/info.json").read_text())
    data = info["data_path"].replace("data", "frames")
    edit_info(root, data_path=data, video_path=info["video_path"].replace("videos", "films"))
    found = videos(root).read()
    np.testing.assert_array_equal(found.actions, want.actions)
    np.testing.assert_array_equal(found.images, want.images)


@pytest.mark.parametrize(
    "pattern",
    [
        "/data/file.parquet",
        "data/../../file.parquet",
        ".hidden/file.parquet",
        "data/{episode_index}.parquet",
        "data/{file_index:99999999d}.parquet",
        "data/{file_index.__class__}.parquet",
        "data/{video_key}.parquet",
        "data/{}.parquet",
        "d" * 201,
        "data\0",
        7,
    ],
)
def test_patterns_of_files_that_are_none(tmp_path: Path, pattern: Any) -> None:
    """Whoever wrote a dataset reads no file of its reader's with it, and takes no memory."""
    root = copied(IMAGES, tmp_path / "data")
    edit_info(root, data_path=pattern)
    with pytest.raises(UserError, match=r"info\.json is damaged") as error:
        opened(root)
    assert "\n" not in str(error.value)
    edit_info(root, data_path=None, video_path="../{video_key}")
    with pytest.raises(UserError, match=r"files called '\.\./{video_key}'"):
        opened(root)


def test_all_of_an_image_is_seen() -> None:
    """It is 32 x 48: in a square of 24 it has 16 rows, black ones above and below, no side cut."""
    image = opened(IMAGES).read().images[0]
    assert image[:4].max() == image[20:].max() == 0
    assert image[4:20, 0].max() > 0
    assert image[12, 6].tolist() == [40, 0, 200] and image[12, 18].tolist() == [40, 0, 0]


def test_what_is_taken_is_said() -> None:
    assert opened(IMAGES).notes == [
        "success is not recorded: every episode counts as a demonstration"
    ]
    left = {"left": INSTRUCTIONS["left"]}
    some = opened(VIDEOS, camera="front", stride=3, instructions=left)
    assert some.counts() == {"left": 1} and len(some) == 1
    assert some.notes == [
        "a decision is one frame in 3",
        "episodes that failed, left out: 1",
        "episodes of other tasks, left out: 2 ('reach the right disc')",
    ]


def test_several_data_files(tmp_path: Path) -> None:
    root = copied(IMAGES, tmp_path / "data")
    want = opened(root).read()
    split_data(root, 2)
    found = opened(root).read()
    assert found.images is not want.images
    np.testing.assert_array_equal(found.images, want.images)
    np.testing.assert_array_equal(found.actions, want.actions)


def test_an_episode_is_where_its_time_in_the_video_says(tmp_path: Path) -> None:
    """That counts, not its place in the dataset: here two of one length have changed places."""
    root = copied(VIDEOS, tmp_path / "data")
    first, *others, last = get_column(root / EPISODES, FROM)
    set_column(root / EPISODES, FROM, [last, *others, first])
    images = videos(root).read().images  # of the episodes 1 and 0, and then of 2
    assert np.abs(colours(images[3:6]) - [shown(3, frame) for frame in (0, 3, 6)]).max() <= 4


def test_actions_are_scaled_from_the_suites_own_units() -> None:
    low = np.array([-1, 0], np.float32)
    high = np.array([3, 0.2], np.float32)
    actions = opened(IMAGES, low=low, high=high).read().actions
    want = [
        (2 * (episode / 10 + 1) / 4 - 1, 2 * (frame / 50) / 0.2 - 1)
        for episode, frame in all_frames((1, 3, 0, 2), 1)
    ]
    np.testing.assert_allclose(actions, want, atol=1e-6)


def test_instructions_are_compared_as_people_read_them() -> None:
    assert plain("Reach  the LEFT disc.") == plain(INSTRUCTIONS["left"])
    assert plain("reach the left disk") != plain(INSTRUCTIONS["left"])


# --- The cache


def test_images_are_decoded_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = videos(VIDEOS).read().images.copy()
    monkeypatch.setattr(demonstrated, "decode", None)  # nobody can call it
    again = videos(VIDEOS).read().images
    np.testing.assert_array_equal(again, first)
    assert len(list(cache.iterdir())) == 1


def test_what_is_written_into_them_changes_no_file() -> None:
    images = opened(IMAGES).read().images
    torch.from_numpy(images)[0] = 7
    assert not np.array_equal(opened(IMAGES).read().images, images)


@pytest.mark.parametrize("damage", ["flipped", "cut", "longer"])
def test_a_damaged_cache_is_made_again(cache: Path, damage: str) -> None:
    want = opened(IMAGES).read().images.copy()
    (path,) = cache.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[100] ^= 1
    path.write_bytes({"cut": content[:-1], "longer": content + b"x"}.get(damage, content))
    np.testing.assert_array_equal(opened(IMAGES).read().images, want)


def test_other_settings_and_other_data_have_other_hashes(tmp_path: Path) -> None:
    root = copied(VIDEOS, tmp_path / "data")
    found = [videos(root), opened(root, camera="wrist", stride=3)]
    found += [opened(root, camera="front", stride=2, fps=15.0)]
    found += [opened(root, camera="front", stride=3, image_size=32)]
    found += [opened(root, camera="front", stride=3, high=2 * ONE)]
    hashes = {each.hash() for each in found}
    assert len(hashes) == 5 and videos(root).hash() in hashes
    (root / FRONT).write_bytes((root / FRONT).read_bytes() + b"0")
    assert videos(root).hash() not in hashes


def test_an_image_that_is_broken_leaves_no_cache(tmp_path: Path, cache: Path) -> None:
    root = copied(IMAGES, tmp_path / "data")
    images = get_column(root / DATA, "observation.images.front")
    images[5] = {"bytes": images[5]["bytes"][:40], "path": "x"}
    set_column(root / DATA, "observation.images.front", images)
    with pytest.raises(UserError, match="the image of frame 5 is broken"):
        opened(root).read()
    assert not list(cache.iterdir())


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=rf"No space.*make room.*{disk.CACHE}"):
        opened(IMAGES).read()
    assert not list(cache.iterdir())


# --- What does not fit

Spoil = Callable[[Path], Any]
OUTSIDE = {"../x": {"dtype": "video", "shape": [1]}}  # a camera


def no_image_column(root: Path) -> None:
    edit_table(root / DATA, lambda table: table.drop_columns(["observation.images.front"]))


def cut_file(name: str) -> Spoil:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-20])


def tell_twice(root: Path) -> None:
    info = root / "meta/info.json"
    info.write_text(info.read_text().replace("{", '{"fps": 3, ', 1))


def remove(name: str) -> Spoil:
    return lambda root: (root / name).unlink()


def empty_episode(root: Path) -> None:
    set_column(root / EPISODES, "length", [8, 0, 19, 8])


def swapped_frames(root: Path) -> None:
    edit_table(root / DATA, lambda table: table.take([1, 0, *range(2, len(table))]))


def two_tasks(root: Path) -> None:
    tasks = get_column(root / DATA, "task_index")
    set_column(root / DATA, "task_index", [1 - tasks[0], *tasks[1:]])


def another_type(root: Path) -> None:
    def changed(table: pa.Table) -> pa.Table:
        text = pa.array(["x"] * len(table))
        return table.set_column(table.column_names.index("action"), "action", text)

    edit_table(root / DATA, changed)


SPOILT: dict[str, tuple[Path, Spoil, str]] = {
    "v1.6": (IMAGES, lambda root: edit_info(root, codebase_version="v1.6"), "v1.6.*convert"),
    "v2.1 by name alone": (
        IMAGES,
        lambda root: edit_info(root, codebase_version="v2.1"),
        "files called 'data/chunk-{chunk_index:03d}",
    ),
    "no dataset": (IMAGES, remove("meta/info.json"), "no LeRobotDataset"),
    "no JSON": (IMAGES, cut_file("meta/info.json"), "damaged"),
    "a key twice": (IMAGES, tell_twice, "info.json is damaged.*'fps' is told twice"),
    "no features": (IMAGES, lambda root: edit_info(root, features=3), "damaged"),
    "no actions": (IMAGES, lambda root: edit_info(root, features={"x": {}}), "no feature 'action'"),
    "no rate": (IMAGES, lambda root: edit_info(root, fps=0), "0 frames a second"),
    "a path for a camera": (
        IMAGES,
        lambda root: edit_info(root, features={"action": {"dtype": "f", "shape": [2]}, **OUTSIDE}),
        "camera called",
    ),
    "broken parquet": (IMAGES, cut_file(DATA), "file-000.parquet is broken"),
    "broken episodes": (IMAGES, cut_file(EPISODES), "broken"),
    "missing data": (IMAGES, remove(DATA), f"{DATA} is missing"),
    "missing tasks": (IMAGES, remove("meta/tasks.parquet"), "tasks.parquet is missing"),
    "missing episodes": (IMAGES, remove(EPISODES), "has no episodes"),
    "missing images": (IMAGES, no_image_column, "no column 'observation.images.front'"),
    "missing video": (VIDEOS, remove(FRONT), f"{FRONT} is missing"),
    "broken video": (VIDEOS, lambda root: (root / FRONT).write_bytes(b"x" * 99), "no video"),
    "empty episode": (IMAGES, empty_episode, "episode 1 is empty; take it out"),
    "frames elsewhere": (IMAGES, swapped_frames, "not those that meta/episodes tells"),
    "fewer frames": (IMAGES, lambda root: edit_info(root, total_frames=3), "info.json says 3"),
    "two tasks": (IMAGES, two_tasks, r"episode 0 has the tasks \[0, 1\]"),
    "NaN": (IMAGES, lambda root: set_action(root, 9, [0, float("nan")]), "nan .*frame 1, dim.* 1"),
    "infinite": (IMAGES, lambda root: set_action(root, 0, [float("-inf"), 0]), "-inf .episode 0"),
    "outside": (IMAGES, lambda root: set_action(root, 0, [0, 1.2]), "1.2 .*takes -1 to 1: scale"),
    "text": (IMAGES, another_type, "damaged"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_one_line_and_nothing_written(kind: str, tmp_path: Path, cache: Path) -> None:
    source, spoil, message = SPOILT[kind]
    root = copied(source, tmp_path / "data")
    spoil(root)
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message) as error:
        opened(root) if source is IMAGES else videos(root)
    assert "\n" not in str(error.value) and str(root) in str(error.value)
    assert sorted(path for path in tmp_path.rglob("*")) == before


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "other dimensions": ({"low": -ONE[:1], "high": ONE[:1]}, "of 2 dimensions, and toy takes 1"),
    "a task it lacks": ({"instructions": {"up": "go up"}}, "no successful episode of up .'go up'"),
    "another rate": ({"fps": 20.0}, "30 frames a second.*no stride makes"),
    "a rate that a stride makes": ({"fps": 15.0}, "--expert.stride 2"),
    "no choice of a camera": ({"camera": ""}, "2 cameras.*--expert.camera front or wrist"),
    "another camera": ({"camera": "wirst"}, "unknown camera.*did you mean 'wrist'"),
    "one instruction for two": (
        {"instructions": {"a": "go", "b": "Go."}},
        "a and b have one instruction",
    ),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_what_does_not_fit_is_told_with_the_remedy(kind: str, cache: Path) -> None:
    changes, message = MISFITS[kind]
    with pytest.raises(UserError, match=message):
        opened(VIDEOS, **{"camera": "front", "stride": 3, **changes})
    assert not cache.exists()


def test_a_task_whose_episodes_all_failed(tmp_path: Path) -> None:
    root = copied(VIDEOS, tmp_path / "data")
    set_column(root / DATA, "next.success", [False] * 35)
    with pytest.raises(UserError, match="no successful episode of left"):
        videos(root)


def test_a_video_that_ends_too_early(tmp_path: Path, cache: Path) -> None:
    root = copied(VIDEOS, tmp_path / "data")
    set_column(root / EPISODES, FROM, [0.0, 9.0, *get_column(root / EPISODES, FROM)[2:]])
    with pytest.raises(UserError, match=re.escape(f"{FRONT}: 3 images are missing")):
        videos(root).read()
    assert not list(cache.iterdir())


def test_videos_need_pyav_and_images_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"need PyAV: pip install 'irevla\[report\]'"):
        videos(VIDEOS)
    assert len(opened(IMAGES).read()) == 35


def test_a_dataset_without_images(tmp_path: Path) -> None:
    root = copied(IMAGES, tmp_path / "data")
    features = {"action": {"dtype": "float32", "shape": [2], "names": {"motors": ["x", "y"]}}}
    edit_info(root, features=features)
    assert Dataset(root).info.action_names == ("x", "y")
    with pytest.raises(UserError, match="has no images"):
        opened(root)


def test_mutated_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    outcomes = set()
    for number in range(60):
        source = (IMAGES, VIDEOS)[number % 2]
        root = copied(source, tmp_path / str(number))
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        path = paths[rng.integers(len(paths))]
        content = bytearray(path.read_bytes())
        for place in rng.integers(len(content), size=rng.choice([1, 20])):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            (opened(root) if source is IMAGES else videos(root)).read()
            outcomes.add("read")
        except UserError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


# --- what would pair images with the actions of others, or take a failure for a success


@pytest.mark.parametrize(
    ("fps", "message"),
    [
        (25, r"a frame each 0\.03333 s, and at 25 frames a second .* 0\.04 s; .*: mend fps"),
        (15, "mend fps"),
        (60, "mend fps"),
        (29.97, "fps is 29.97, and must be a whole number"),
        (True, "fps is True"),
        ("30", "fps is '30'"),
    ],
)
@pytest.mark.parametrize("source", [VIDEOS, IMAGES])
def test_a_rate_that_is_not_that_of_the_frames(
    source: Path, fps: Any, message: str, tmp_path: Path
) -> None:
    root = copied(source, tmp_path / "data")
    edit_info(root, fps=fps)
    with pytest.raises(UserError, match=message if source is VIDEOS else "fps"):
        Dataset(root)


def test_two_rates_are_one_where_they_are_near() -> None:
    opened(IMAGES, fps=10.4)  # 12 for the kitchen's 12.5 is as near
    for fps in (9.0, 10.6, 1.0):
        with pytest.raises(UserError, match="frames a second"):
            opened(IMAGES, fps=fps)


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ([0.0, 0.0, 0.0, 0.0], "episodes 0 and 1 overlap"),
        ([0.0, 0.2, 0.57, 0.9], "episodes 0 and 1 overlap"),
        ([float("nan"), 0.27, 0.57, 0.9], "episode 0 begins at nan s"),
        ([0.0, float("inf"), 0.57, 0.9], "begins at inf s"),
        ([0.0, 0.27, -1.0, 0.9], "begins at -1.0 s"),
    ],
)
def test_a_place_in_a_video_that_cannot_be(
    starts: list[float], message: str, tmp_path: Path
) -> None:
    root = copied(VIDEOS, tmp_path / "data")
    set_column(root / EPISODES, FROM, starts)
    with pytest.raises(UserError, match=message):
        Dataset(root)


def test_a_recorded_failure_counts_whatever_info_lists(tmp_path: Path) -> None:
    root = copied(VIDEOS, tmp_path / "data")
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features.pop("next.success")
    edit_info(root, features=features)
    failed = [False] * len(get_column(root / DATA, "next.success"))
    set_column(root / DATA, "next.success", failed)
    with pytest.raises(UserError, match="no successful episode"):
        videos(root)


@pytest.mark.parametrize("value", [0.1, float("nan"), 2, -1])
def test_a_score_is_no_success(value: float, tmp_path: Path) -> None:
    root = copied(VIDEOS, tmp_path / "data")

    def scored(score: float) -> Dataset:
        def edit(table: pa.Table) -> pa.Table:
            column = pa.array([score] * len(table))
            place = table.schema.get_field_index("next.success")
            return table.set_column(place, "next.success", column)

        edit_table(root / DATA, edit)
        return Dataset(root)

    with pytest.raises(UserError, match="neither true nor false"):
        scored(value)
    assert all(episode.success for episode in scored(1.0).episodes)


def test_a_task_has_one_instruction(tmp_path: Path) -> None:
    root = copied(IMAGES, tmp_path / "data")
    path = root / "meta/tasks.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table]), path)
    Dataset(root)  # twice the same is no harm
    twice = [0] * len(table)
    set_column(path, "task_index", [*twice, *twice])
    with pytest.raises(UserError, match="task_index 0 has two instructions"):
        Dataset(root)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("tasks", '"task_index": 0', '"task_index": 0.5', "task_index is 0.5"),
        ("episodes", '"length": 8', '"length": 8.9', "length is 8.9"),
    ],
)
def test_version_2_has_whole_numbers(
    file: str, old: str, new: str, message: str, tmp_path: Path
) -> None:
    root = as_v21(IMAGES, tmp_path / "data")
    path = root / f"meta/{file}.jsonl"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message):
        Dataset(root)


def test_cameras_that_end_alike_are_told_by_their_whole_key(tmp_path: Path) -> None:
    root = copied(IMAGES, tmp_path / "data")
    features = json.loads((root / "meta/info.json").read_text())["features"]
    (key,) = [each for each in features if "images" in each]
    stem = key.rpartition(".")[2]
    twin = f"observation.left.{stem}"
    edit_info(root, features={**features, twin: features[key]})
    edit_table(root / DATA, lambda table: table.append_column(twin, table[key]))
    for name in (stem, ""):
        with pytest.raises(UserError, match=f"{re.escape(key)} or {re.escape(twin)}"):
            find_camera(Dataset(root), name)
    assert find_camera(Dataset(root), twin).key == twin


def _png(mode: str, value: int) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (24, 24), value).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_png("I;16", 32_000), "more than 8 bits"),
        (_png("L", 9)[:45], "is broken"),
        (_png("P", 9).replace(b"PLTE", b"tRNS", 1), "is broken"),
    ],
)
def test_an_image_that_would_come_out_wrong(content: bytes, message: str, tmp_path: Path) -> None:
    root = copied(IMAGES, tmp_path / "data")
    images = get_column(root / DATA, "observation.images.front")
    for image in images:
        image["bytes"] = content
    set_column(root / DATA, "observation.images.front", images)
    with pytest.raises(UserError, match=message):
        opened(root).read()


def test_a_folder_with_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied(VIDEOS, tmp_path / "demo2026-11-27T10:30")
    monkeypatch.chdir(tmp_path)
    assert len(videos(Path("demo2026-11-27T10:30")).read().images) > 0


@pytest.mark.parametrize("name", ["index", "action", "next.success"])
def test_a_column_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    root = copied(VIDEOS, tmp_path / "data")
    edit_table(root / DATA, lambda table: table.drop_columns([name]))
    with pytest.raises(UserError, match=f"has no column '{name}'"):
        Dataset(root)


def _with_times(root: Path, times: pa.Array) -> None:
    def edit(table: pa.Table) -> pa.Table:
        return table.set_column(table.schema.get_field_index("timestamp"), "timestamp", times)

    edit_table(root / DATA, edit)


def test_times_count_from_whenever(tmp_path: Path) -> None:
    """Of images only their distance matters: clocks begin anywhere, written in many ways."""
    times = np.array(get_column(IMAGES / DATA, "timestamp"), np.float64)
    numbers = np.array(get_column(IMAGES / DATA, "episode_index"))
    kinds = {
        "offset": pa.array(times + 1_764_000_000.5),
        "through all episodes": pa.array(times + 7.3 * numbers),
        "float32": pa.array((times * 1.0001).astype(np.float32)),
        "lists": pa.array([[time] for time in times]),
        "gaps": pa.array([None, *times[1:]]),
        "text": pa.array([str(time) for time in times]),
    }
    for name, values in kinds.items():
        root = copied(IMAGES, tmp_path / name)
        _with_times(root, values)
        assert len(opened(root)) == 4, name
    late = copied(VIDEOS, tmp_path / "late")
    own = np.array(get_column(VIDEOS / DATA, "timestamp"), np.float64)
    _with_times(late, pa.array(own + 1.0))
    with pytest.raises(UserError, match="1 s late"):
        Dataset(late)  # whose images would be others


def test_success_in_a_list_of_its_own(tmp_path: Path) -> None:
    root = copied(VIDEOS, tmp_path / "data")
    said = get_column(root / DATA, "next.success")

    def edit(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index("next.success")
        return table.set_column(place, "next.success", pa.array([[each] for each in said]))

    edit_table(root / DATA, edit)
    want = [episode.success for episode in Dataset(VIDEOS).episodes]
    assert [episode.success for episode in Dataset(root).episodes] == want
