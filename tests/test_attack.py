"""Damage and malice, file by file: one line that names the file, and nothing believed or run."""

import hashlib
import json
import mmap
import multiprocessing
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from irevla import progress
from irevla.cli.main import main
from irevla.config import Config, EnvConfig, ExpertConfig, ModelConfig
from irevla.config_io import to_dict
from irevla.data import lerobot
from irevla.data.episodes import EpisodeStore
from irevla.envs.suite import load_suite, suite_of_file
from irevla.envs.worker import EnvPool, SharedBuffers
from irevla.errors import UserError
from irevla.evaluation.report import clips
from irevla.evaluation.stats import Results, Row, read_results
from irevla.models.policy import VLAPolicy, build_policy
from irevla.robot.settings import read_settings
from irevla.rollout.demonstrations import collect_expert
from irevla.runs.run import open_run, read_config
from irevla.stages.contract import load_if_done
from irevla.storage import checkpoint, disk
from irevla.storage.journal import Journal
from irevla.storage.read import read_bytes
from irevla.tasks import Category, Stage

POINTMASS = load_suite("pointmass")
ENV = EnvConfig(image_size=32, horizon=25, workers=1, envs_per_worker=2)
CONFIG = Config(suite="pointmass", env=ENV)
MODEL = ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16)


def policy() -> VLAPolicy:
    return build_policy(MODEL, action_dim=2, image_size=32)


# --- Journal


def test_a_digit_changed_in_the_journal_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).append("evaluated sft", rows=[{"successes": 10, "episodes": 50}])
    path.write_text(path.read_text().replace('"successes": 10', '"successes": 49'))
    with pytest.raises(UserError, match="line 1 is not what was written"):
        list(Journal(path))


@pytest.mark.parametrize(
    "line", ["7", "[1]", '"text"', "[" * 100_000, "\ud800".encode("utf-8", "replace").decode()]
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match="line 1"):
        list(Journal(path))


def test_a_journal_of_version_0_1_is_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event": "sft", "time": 1.0, "best_step": 5}\n')
    assert list(Journal(path)) == [{"event": "sft", "time": 1.0, "best_step": 5}]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("")])
def test_an_emptied_journal_does_not_start_anew(
    tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    with open_run(tmp_path, CONFIG) as run:
        run.journal.append("sft")
        run.checkpoints.save("sft", policy().files())
    damage(tmp_path / "journal.jsonl")
    with pytest.raises(UserError, match="missing or empty"), open_run(tmp_path, CONFIG):
        pass


# --- Checkpoints


def test_two_whole_checkpoints_swapped_are_noticed(tmp_path: Path) -> None:
    with open_run(tmp_path, CONFIG) as run:
        for name in ("sft", "rl:left-disc-new"):
            stage = Stage.parse(name)
            run.checkpoints.save(stage.folder, policy().files())
            run.journal.append(name)
        root = run.checkpoints.root
        (root / "sft").rename(root / "aside")
        (root / "rl-left-disc-new").rename(root / "sft")
        (root / "aside").rename(root / "rl-left-disc-new")
        with pytest.raises(UserError, match="was saved as rl-left-disc-new"):
            load_if_done(run, policy(), Stage("sft"))
    # elsewhere, a checkpoint may have any name
    VLAPolicy.from_pretrained(root / "sft")


def test_what_a_kill_left_of_a_write_is_gone_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    (tmp_path / ".results.json.new").write_text("half")
    with disk.writing(path) as aside:
        aside.write_text("whole")
    assert [each.name for each in tmp_path.iterdir()] == ["results.json"]
    assert path.read_text() == "whole"


# --- Datasets


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "expert"
    few = ExpertConfig(episodes=3)
    collect_expert(POINTMASS, ("left-disc",), few, env=ENV, seed=0, root=root)
    return root


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("dataset_from_index", [0, 0, 0]),
        ("length", [0, 5, 5]),
        ("irevla/data_sha256", ["", "", ""]),
        ("irevla/seed", [0, 0, 1]),
    ],
)
def test_rows_that_cannot_be_are_refused(
    dataset: Path, tmp_path: Path, column: str, values: list[Any]
) -> None:
    """Overlapping starts trained on uninitialised memory; an empty hash switched the check off."""
    (path,) = (dataset / "meta/episodes").rglob("*.parquet")
    before = path.read_bytes()
    table = pq.read_table(path)
    place = table.column_names.index(column)
    kind = table.schema.field(column)
    try:
        changed = table.set_column(place, kind, pa.array(values, kind.type))
        pq.write_table(changed, path)
        with pytest.raises(UserError, match=r"cannot be|twice"):
            EpisodeStore(dataset)
    finally:
        path.write_bytes(before)
    assert len(EpisodeStore(dataset)) == 3


def _collect(root: str, answers: Any) -> None:
    try:
        many = ExpertConfig(episodes=40)
        collect_expert(POINTMASS, ("left-disc",), many, env=ENV, seed=0, root=Path(root))
        answers.put("done")
    except UserError as error:
        answers.put(str(error))


def test_two_collections_into_one_dataset(tmp_path: Path) -> None:
    """Every episode was there twice, with exit code 0 for both."""
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    root = str(tmp_path / "expert")
    both = [context.Process(target=_collect, args=(root, answers)) for _ in range(2)]
    for process in both:
        process.start()
    said = sorted(answers.get(timeout=100) for _ in both)
    for process in both:
        process.join()
    store = EpisodeStore(tmp_path / "expert")
    assert len(store) == len(store.seeds()) == 40
    assert said[-1] == "done" and all(
        "another process" in text for text in said[:-1] if text != "done"
    )


def _rewritten(table: pa.Table, column: str, values: Any, kind: pa.DataType) -> pa.Table:
    place = table.column_names.index(column)
    return table.set_column(place, column, pa.array(values, kind))


def _bomb() -> bytes:
    """A PNG of a hundred thousand times a hundred thousand pixels, in a few bytes."""
    png = lerobot.encode_pngs(np.zeros((1, 32, 32, 3), np.uint8))[0]
    size = struct.pack(">II", 100_000, 100_000)
    header = png[12:16] + size + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


COLUMNS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "text for numbers": lambda t: _rewritten(t, "action", ["1"] * len(t), pa.string()),
    "no numbers": lambda t: _rewritten(t, "next.reward", [None] * len(t), pa.float32()),
    "three dimensions": lambda t: _rewritten(
        t, "action", [[[0.0, 0.0]]] * len(t), pa.list_(pa.list_(pa.float32()))
    ),
    "other lengths": lambda t: _rewritten(
        t, "action", [[0.0] * (1 + i % 3) for i in range(len(t))], pa.list_(pa.float32())
    ),
    "not finite": lambda t: _rewritten(
        t, "action", [[float("nan"), 0.0]] * len(t), pa.list_(pa.float32(), 2)
    ),
    "a column less": lambda t: t.drop_columns(["action"]),
    "a bomb": lambda t: _rewritten(
        t,
        lerobot.IMAGE,
        [{"bytes": _bomb(), "path": ""}] * len(t),
        t.schema.field(lerobot.IMAGE).type,
    ),
}


@pytest.mark.parametrize("damage", COLUMNS)
def test_frames_that_are_none_are_refused(dataset: Path, tmp_path: Path, damage: str) -> None:
    """With a hash that is right: whoever wrote it meant it."""
    root = tmp_path / "other"
    shutil.copytree(dataset, root)
    (data,) = (root / "data").rglob("*.parquet")
    pq.write_table(COLUMNS[damage](pq.read_table(data)), data)
    sha256 = hashlib.sha256(data.read_bytes()).hexdigest()
    (rows,) = (root / "meta/episodes").rglob("*.parquet")
    table = pq.read_table(rows)
    hashes = [sha256] * len(table)
    pq.write_table(_rewritten(table, "irevla/data_sha256", hashes, pa.string()), rows)
    store = EpisodeStore(root)
    with pytest.raises(UserError, match=r"file-000\.parquet|episode"):
        store.read()


def test_a_length_that_cannot_be_takes_no_memory(dataset: Path, tmp_path: Path) -> None:
    root = tmp_path / "other"
    shutil.copytree(dataset, root)
    (rows,) = (root / "meta/episodes").rglob("*.parquet")
    table = pq.read_table(rows)
    lengths = [10**12] * len(table)
    starts = [index * 10**12 for index in range(len(table))]
    table = _rewritten(table, "length", lengths, pa.int64())
    pq.write_table(_rewritten(table, "dataset_from_index", starts, pa.int64()), rows)
    with pytest.raises(UserError, match="frames, not"):
        EpisodeStore(root).read()


@pytest.mark.parametrize("column", ["irevla/seed", "tasks", "irevla/success", "length"])
@pytest.mark.parametrize("how", ["missing", "text", "null"])
def test_rows_of_another_kind_are_refused(
    dataset: Path, tmp_path: Path, column: str, how: str
) -> None:
    root = tmp_path / "other"
    shutil.copytree(dataset, root)
    (rows,) = (root / "meta/episodes").rglob("*.parquet")
    table = pq.read_table(rows)
    if how == "missing":
        table = table.drop_columns([column])
    else:
        values = ["x"] * len(table) if how == "text" else [None] * len(table)
        table = _rewritten(table, column, values, pa.string())
    pq.write_table(table, rows)
    with pytest.raises(UserError, match=r"file-000\.parquet"):
        EpisodeStore(root)


# --- Files of others

NO_JSON = ("[" * 100_000, '{"a": ' * 50_000, "\ud800", "7", "null", "[]", '{"rows": 7}', "{")
NO_YAML = (
    "[" * 5_000,
    "2020-01-01: 1",
    "seed: 2020-01-01",
    "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    + "\n".join(f"{n}: &{n} [{', '.join([f'*{m}'] * 9)}]" for m, n in pairwise("abcdefghij")),
    "a: &a [*a]",
    "? [1, 2]\n: 3",
    "7",
    "sft: {lr: .nan}",
    "sft: 7",
    "seed: !!python/object/apply:os.getpid []",
)


@pytest.mark.parametrize("text", NO_JSON)
def test_what_is_no_json_of_ours_is_named(tmp_path: Path, text: str) -> None:
    content = text.encode(errors="surrogatepass")
    results = tmp_path / "results.json"
    results.write_bytes(content)
    with pytest.raises(UserError, match=r"results\.json"):
        read_results(results)
    policy().save_pretrained(tmp_path / "policy")
    manifest = tmp_path / "policy" / "MANIFEST.json"
    manifest.write_bytes(content)
    with pytest.raises(UserError, match="MANIFEST"):
        VLAPolicy.from_pretrained(tmp_path / "policy")
    run = tmp_path / "run"
    (run / "videos").mkdir(parents=True)
    (run / "videos" / "index.json").write_bytes(content)
    empty = Results(config={}, git="", machine={}, command="", rows=())
    with pytest.raises(UserError, match=r"index\.json"):
        list(clips(run, empty))


@pytest.mark.parametrize("text", NO_YAML)
def test_what_is_no_yaml_of_ours_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError) as told:
        read_config(tmp_path)
    assert len(str(told.value)) < 600 and "\n" not in str(told.value)
    with pytest.raises(UserError, match=r"config\.yaml"):
        read_settings(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    "change",
    [
        {"episodes": 0},
        {"successes": 51},
        {"successes": True},
        {"rate": 0.9},
        {"stage": "rl:x@y"},
        {"stage": f"rl:x@{'9' * 5000}"},
        {"stage": ["sft"]},
        {"task": 7},
        {"category": "none"},
    ],
)
def test_counts_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    row = Row.of(
        method="irevla",
        task="left-disc",
        category=Category.EXPERT,
        stage="sft",
        seed=0,
        successes=10,
        episodes=50,
        env_steps=100,
        seconds=1.0,
    )
    whole = {"config": to_dict(CONFIG), "git": "", "machine": {}, "command": ""}
    path = tmp_path / "results.json"
    path.write_text(json.dumps({**whole, "rows": [row.to_json()]}))
    assert read_results(path).rows == (row,)
    path.write_text(json.dumps({**whole, "rows": [row.to_json() | change]}))
    with pytest.raises(UserError, match=r"results\.json|stage"):
        read_results(path)


def test_results_say_what_the_journal_measured(tmp_path: Path) -> None:
    """A bit makes "sl:x" of "rl:x", and results.json has no checksum."""
    rows = [
        Row.of(
            method="irevla",
            task=task,
            category=Category.RL,
            stage="rl:a",
            seed=0,
            successes=1,
            episodes=2,
            env_steps=3,
            seconds=1.0,
        ).to_json()
        for task in "ab"
    ]
    with open_run(tmp_path, CONFIG) as run:
        run.journal.append("evaluated rl:a", rows=rows, git="")
        run.write_results()
    path = tmp_path / "results.json"
    assert len(read_results(path).rows) == 2
    path.write_text(path.read_text().replace("rl:a", "sl:a"))
    with pytest.raises(UserError, match="measured other rows"):
        read_results(path)


def test_a_journal_that_lost_lines_is_not_gone_on_from(tmp_path: Path) -> None:
    row = {"stage": "sft", "task": "left-disc"}
    with open_run(tmp_path, CONFIG) as run:
        run.journal.append("sft")
        run.journal.append("evaluated sft", rows=[row], git="")
        run.write_results()
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(UserError, match=r"journal\.jsonl lacks what"), open_run(tmp_path, CONFIG):
        pass


def test_pipes_and_devices_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "endless", "folder"):
        with pytest.raises(UserError, match="no regular file"):
            read_bytes(tmp_path / name)
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 10**12)
    with pytest.raises(UserError, match="too large"):
        read_bytes(tmp_path / "large")


@pytest.mark.parametrize(
    "out", ["/proc/run", "/dev/null/run", "x" * 300, "a\nb/" + "x" * 300, "\udcff" * 300]
)
def test_where_nothing_can_be_written_is_told_in_one_line(
    out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "pointmass", "--out", out, "--eval.no-videos"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("irevla: ") and said.count("\n") == 1


def test_brackets_in_a_path_are_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress.screen.print(f"report: {tmp_path}/[bold]/[/x]", soft_wrap=True)
    with progress.bar("[/x] of [bold]", 3) as advance:
        advance(3, "[/y]")
    shown = capsys.readouterr()
    assert "/[bold]/[/x]" in shown.out and "[/x] of [bold]: [/y]" in shown.err


def test_half_a_character_is_read_as_a_question_mark() -> None:
    made = policy()
    image = np.zeros((32, 32, 3), np.uint8)
    torch.manual_seed(0)
    np.testing.assert_array_equal(
        made.act(image, "reach \udcff now"), made.act(image, "reach ? now")
    )


@pytest.mark.parametrize("name", ["os:path", ":y", ".x:y", "irevla.config:Config", "nowhere:X"])
def test_what_is_no_suite_is_told(name: str) -> None:
    with pytest.raises(UserError, match="suite"):
        load_suite(name)


def test_no_code_that_a_file_names_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "malice.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nSUITE = None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="if you trust it, say --suite malice:SUITE"):
        suite_of_file("malice:SUITE", tmp_path)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="moves a real arm"):
        suite_of_file("panda", tmp_path)
    assert suite_of_file("pointmass", tmp_path).name == "pointmass"


@pytest.mark.parametrize(
    "change", [{"action_dim": 10**12}, {"image_size": 10**9}, {"model": {"width": 2**24}}]
)
def test_a_small_file_cannot_take_all_memory(tmp_path: Path, change: dict[str, Any]) -> None:
    files = policy().files()
    config = files["config.json"]
    for name, value in change.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    checkpoint.save(tmp_path / "policy", files)
    with pytest.raises(UserError):
        VLAPolicy.from_pretrained(tmp_path / "policy")


def test_a_page_takes_no_file_from_elsewhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"private")
    run = tmp_path / "run"
    (run / "videos").mkdir(parents=True)
    (run / "videos" / "link.mp4").symlink_to(secret)
    entry = {"success": True, "seed": 1, "stage": "sft"}
    index = {"../../secret": entry, "link": entry, str(secret.with_suffix("")): entry}
    (run / "videos" / "index.json").write_text(json.dumps(index))
    results = Results(config={}, git="", machine={}, command="", rows=())
    assert list(clips(run, results)) == []


# --- Environments of others


class Broken(gym.Env[Any, Any]):
    """One that forgets info["success"], or gives a reward that is not finite."""

    draw = True
    task = POINTMASS.task("left-disc")

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros((16, 16, 3), np.uint8), {}

    def step(self, action: Any) -> Any:
        info = {} if self.fault == "success" else {"success": False}
        return np.zeros((16, 16, 3), np.uint8), float("nan"), False, False, info


@pytest.mark.parametrize("fault", ["success", "reward"])
def test_an_environment_that_says_too_little_is_named(fault: str) -> None:
    size = {"n": 1, "image_size": 16, "action_dim": 2, "state_dim": 0, "cameras": 1}
    buffers = SharedBuffers.on(mmap.mmap(-1, SharedBuffers.nbytes(**size)), **size)
    suite = replace(POINTMASS, make=lambda task, config: Broken(fault))
    pool = EnvPool(suite, ENV, buffers)
    pool.obey({"begin": [{"task": "left-disc", "seed": 7}]})
    with pytest.raises(UserError, match="left-disc, seed 7"):
        pool.obey({"step": [None], "expert": False})
