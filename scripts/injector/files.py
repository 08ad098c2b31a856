"""Files that others may have written, mutated: their readers give a value or a `UserError`."""

import hashlib
import json
import resource
import shutil
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import yaml

from injector.lives import Life, changed
from injector.mutations import as_json, mutate_bytes, mutate_table, mutate_tree
from injector.settings import TASK, Kind, kinds, reference
from injector.tally import Tally
from irevla.data.episodes import EpisodeStore
from irevla.data.replay import reopen
from irevla.errors import UserError
from irevla.evaluation.report import acting, clips, describe, headline, notes
from irevla.evaluation.stats import read_results
from irevla.models.policy import VLAPolicy
from irevla.robot.settings import read_settings
from irevla.runs.run import read_config
from irevla.storage.journal import CHECKSUM, Journal
from irevla.storage.metrics import read_metrics

SLOW = 2.0  # CPU seconds that a reader may take
STUCK = 20  # seconds after which it is interrupted
MEMORY = 1 << 30  # bytes that it may take
BATCH = 250  # cases of one process
CHECKPOINT = f"checkpoints/rl-{TASK}"
LATENTS = f"latents/{TASK}/online"
ARM = {
    "driver": "franka",
    "host": "172.16.0.2",
    "realtime": False,
    "dynamics": 0.2,
    "dry_run": True,
    "workspace": {"low": [0.35, -0.25, 0.05], "high": [0.65, 0.25, 0.5]},
    "home": {"position": [0.42, 0.0, 0.3]},
    "cameras": {
        "front": {"kind": "opencv", "device": "0"},
        "wrist": {"kind": "realsense", "device": "", "upside_down": True},
    },
    "limits": {"max_age": 0.5},
}


Answer = tuple[int, str, str, str]
"""Number of the case, reader, what was done to its file, and what came out ("": a value)."""


@dataclass(frozen=True)
class Reader:
    """A file under the run's folder, and what reads it."""

    file: str
    read: Callable[[Path], Any]  # given the run's folder
    mutate: Callable[[Random, Path], str]  # given the file


def _bytes(luck: Random, path: Path) -> str:
    data, said = mutate_bytes(luck, path.read_bytes())
    path.write_bytes(data)
    return said


def json_tree(luck: Random, path: Path) -> str:
    """Put something strange into a JSON file."""
    tree, said = mutate_tree(luck, json.loads(path.read_bytes()))
    path.write_text(as_json(luck, tree))
    return said


def _yaml_tree(luck: Random, path: Path) -> str:
    tree, said = mutate_tree(luck, yaml.safe_load(path.read_text()))
    path.write_text(as_json(luck, tree))
    return said


def _lines(luck: Random, path: Path) -> str:
    """Mutate one line; as version 0.1 wrote them, without checksums."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record.pop(CHECKSUM, None)
    number = luck.randrange(len(records))
    records[number], said = mutate_tree(luck, records[number])
    texts = [as_json(luck, record).replace("\n", " ") for record in records]
    path.write_text("\n".join(texts) + "\n")
    return f"line {number}{said}"


def _sealed(mutate: Callable[[Random, Path], str], luck: Random, path: Path) -> str:
    """Mutate a file of a checkpoint, and let its manifest say that it is right."""
    said = mutate(luck, path)
    place = path.parent / "MANIFEST.json"
    manifest = json.loads(place.read_text())
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    manifest["files"][path.name] = {"bytes": len(data), "sha256": sha256}
    place.write_text(json.dumps(manifest))
    return f"{said} (sealed)"


def _header(luck: Random, path: Path) -> str:
    """Mutate the JSON header of a .safetensors."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    tree, said = mutate_tree(luck, json.loads(data[8 : 8 + size]))
    header = as_json(luck, tree).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    return said


def _policy(run: Path) -> Any:
    return VLAPolicy.from_pretrained(run / CHECKPOINT)


def _dataset(run: Path) -> Any:
    return EpisodeStore(run / "expert").read()


def _clips(run: Path) -> Any:
    return list(clips(run, read_results(run / "results.json")))


def _latents(run: Path) -> Any:
    return reopen(run / LATENTS)


def _journal(run: Path) -> Any:
    return Journal(run / "journal.jsonl").done("sft")


def _words(run: Path) -> Any:
    """All that a report says in words."""
    results = read_results(run / "results.json")
    said = (headline(results), acting(results), describe(results.settings["method"]))
    return said, results.lines(), list(notes(run, results))


READERS: dict[str, list[Reader]] = {
    "policy config.json": [
        Reader(f"{CHECKPOINT}/config.json", _policy, mutate)
        for mutate in (_bytes, partial(_sealed, json_tree), partial(_sealed, _bytes))
    ],
    "MANIFEST.json": [
        Reader(f"{CHECKPOINT}/MANIFEST.json", _policy, mutate) for mutate in (_bytes, json_tree)
    ],
    "model.safetensors": [
        Reader(f"{CHECKPOINT}/model.safetensors", _policy, mutate)
        for mutate in (_bytes, partial(_sealed, _header), partial(_sealed, _bytes))
    ],
    "results.json": [
        Reader("results.json", lambda run: read_results(run / "results.json"), mutate)
        for mutate in (_bytes, json_tree)
    ],
    "results.json, in words": [Reader("results.json", _words, json_tree)],
    "journal.jsonl": [Reader("journal.jsonl", _journal, mutate) for mutate in (_bytes, _lines)],
    "metrics.jsonl": [
        Reader("metrics.jsonl", lambda run: read_metrics(run / "metrics.jsonl"), mutate)
        for mutate in (_bytes, _lines)
    ],
    "config.yaml": [Reader("config.yaml", read_config, mutate) for mutate in (_bytes, _yaml_tree)],
    "meta/info.json": [
        Reader("expert/meta/info.json", _dataset, mutate) for mutate in (_bytes, json_tree)
    ],
    "meta/tasks.parquet": [
        Reader("expert/meta/tasks.parquet", _dataset, mutate) for mutate in (_bytes, mutate_table)
    ],
    "meta/episodes": [
        Reader("expert/meta/episodes/chunk-000/file-000.parquet", _dataset, mutate)
        for mutate in (_bytes, mutate_table)
    ],
    "data": [
        Reader("expert/data/chunk-000/file-000.parquet", _dataset, mutate)
        for mutate in (_bytes, mutate_table)
    ],
    "latents header.json": [
        Reader(f"{LATENTS}/header.json", _latents, mutate) for mutate in (_bytes, json_tree)
    ],
    "latents episodes.jsonl": [
        Reader(f"{LATENTS}/episodes.jsonl", _latents, mutate) for mutate in (_bytes, _lines)
    ],
    "videos/index.json": [
        Reader("videos/index.json", _clips, mutate) for mutate in (_bytes, json_tree)
    ],
    "arm settings": [
        Reader("arm.yaml", lambda run: read_settings(run / "arm.yaml"), mutate)
        for mutate in (_bytes, _yaml_tree)
    ],
}


def attack(count: int, *, seed: int, folder: Path, first: int = 0) -> Tally:
    """Read `count` mutated files, each reader's by turns. One of each kind of escape is told."""
    tally = Tally("files", seed)
    base = _base(folder)
    escapes: Counter[str] = Counter()
    number = first
    while number < first + count:
        last = min(first + count, number + BATCH)
        for answer in _batch(tally, number, last, base=base, folder=folder):
            _count(tally, escapes, answer)
            number = answer[0] + 1
    print(*(f"  {times} times {escape}" for escape, times in sorted(escapes.items())), sep="\n")
    return tally


def _count(tally: Tally, escapes: Counter[str], answer: Answer) -> None:
    case, name, said, escape = answer
    told = {"": "read", "UserError": "refused"}.get(escape, "escaped")
    tally.counts["mutated files"] += 1
    tally.counts[told] += 1
    if told == "escaped":
        kind = f"{name}: {escape.partition(':')[0]} {escape.rpartition('[')[2][:-1]}"
        if kind not in escapes:
            tally.fault(case, f"{name}, {said}: {escape}")
        escapes[kind] += 1


def _base(folder: Path) -> Path:
    """Return a finished run of SAC with videos, and the settings of an arm beside it."""
    kind = kinds(folder)[1]
    own = changed(kind.config, eval={"videos": True}, expert={"dataset": "", "episodes": 8})
    base = reference(Kind("sac-of-its-own", own), folder)
    (base / "arm.yaml").write_text(yaml.safe_dump(ARM))
    return base


def _batch(tally: Tally, first: int, last: int, *, base: Path, folder: Path) -> list[Answer]:
    """Let one process read the files of these cases; where it dies, that is the last answer."""
    answers = folder / "files.answers"
    answers.write_text("")
    copy = folder / "files"
    life = Life(folder / "files.log", _read_all, tally, first, last, base, copy, answers)
    if not life.ended(BATCH * SLOW):
        life.kill(session=True)
    told: list[Answer] = [tuple(json.loads(line)) for line in answers.read_text().splitlines()]
    if life.code != 0:
        died = first + len(told)
        escape = f"the process died ({life.code}): {life.text()[-300:]}"
        told.append((died, _reader(died)[0], "unknown", escape))
    return told


def _reader(case: int) -> tuple[str, Reader]:
    name = list(READERS)[case % len(READERS)]
    ways = READERS[name]
    return name, ways[case // len(READERS) % len(ways)]


# --- In the life


def _read_all(tally: Tally, first: int, last: int, base: Path, copy: Path, answers: Path) -> None:
    warnings.simplefilter("ignore")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(base, copy)
    for read in (_policy, _dataset):  # what is imported late, and kept, counts for nobody
        read(copy)
    _limit_memory()
    signal.signal(signal.SIGALRM, _stuck)
    with answers.open("a") as file:
        for case in range(first, last):
            name, reader = _reader(case)
            said, escape = one_case(tally.luck(case), reader, base, copy)
            file.write(json.dumps([case, name, said, escape]) + "\n")
            file.flush()


def one_case(luck: Random, reader: Reader, base: Path, copy: Path) -> tuple[str, str]:
    """Mutate, read and restore; return what was done and what came out ("": a value)."""
    path = copy / reader.file
    said = reader.mutate(luck, path)
    start = time.process_time()
    signal.alarm(STUCK)
    try:
        reader.read(copy)
        escape = ""
    except UserError:
        escape = "UserError"
    except BaseException as error:  # noqa: BLE001  # whatever else comes out is what is looked for
        escape = f"{type(error).__name__}: {str(error)[:100]} [{_place(error)}]"
    finally:
        signal.alarm(0)
    seconds = time.process_time() - start
    if seconds > SLOW:
        escape = f"slow: {seconds:.1f} s, {escape}"
    for name in {path.name, *(["MANIFEST.json"] if "checkpoints" in reader.file else [])}:
        shutil.copyfile(base / Path(reader.file).parent / name, path.with_name(name))
    return said, escape


def _place(error: BaseException) -> str:
    """Return the line of irevla's own code that an exception passed last."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "/irevla/" in name:
            place = f"{Path(name).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _limit_memory() -> None:
    status = Path("/proc/self/statm").read_text().split()
    taken = int(status[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))


def _stuck(number: int, frame: Any) -> None:
    raise TimeoutError(f"no end after {STUCK} s")
