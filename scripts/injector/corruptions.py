"""One damaged file in a finished run: what the commands then say, and whether it is true."""

import io
import json
import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from injector.lives import LONGEST, PRESET, Life, changed, counts, irevla
from injector.settings import Kind, kinds, reference
from injector.tally import Tally
from irevla.config import Config

DAMAGES = ("cut", "flip", "empty", "append", "swap", "directory", "delete")
MOST = 64  # bytes appended


def attack(count: int, *, seed: int, folder: Path, first: int = 0) -> Tally:
    """Damage `count` copies of finished runs, of PPO and SAC by turns."""
    tally = Tally("corruptions", seed)
    ppo, sac, *_ = kinds(folder)
    bases = [finished(_filmed(kind), folder) for kind in (ppo, sac)]
    for number in range(first, first + count):
        one_case(tally, number, bases[number % len(bases)])
    return tally


@dataclass(frozen=True)
class Finished:
    """A finished run, and what each command says of it."""

    root: Path
    config: Config
    truth: dict[str, Any]


def finished(kind: Kind, folder: Path) -> Finished:
    """Finish a run of that kind."""
    root = reference(kind, folder)
    copy = folder / "undamaged"
    shutil.copytree(root, copy, dirs_exist_ok=True)
    truth = {word: told for word, _, told in _life(copy, kind.config, list(commands(copy)))}
    shutil.rmtree(copy)
    return Finished(root, kind.config, truth)


def _filmed(kind: Kind) -> Kind:
    return Kind(f"{kind.name}-filmed", changed(kind.config, eval={"videos": True}))


def one_case(tally: Tally, number: int, base: Finished) -> None:
    """Damage a copy of a finished run, and give the commands in some order."""
    luck = tally.luck(number)
    copy = base.root.with_name(f"damaged-{number}")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(base.root, copy)
    what = damage(luck, copy)
    order = luck.sample(list(commands(copy)), len(commands(copy)))
    said = _life(copy, base.config, order)
    tally.counts["damages"] += 1
    for word, code, _ in said:
        tally.counts[f"{word} {code}"] += 1
    faults = [
        f"{word}: exit code {code}"
        if code not in (0, 2)
        else f"{word}: {told}, not {base.truth[word]}"
        for word, code, told in said
        if code not in (0, 2) or (code == 0 and told != base.truth[word])
    ]
    faults += ["a traceback"] if "Traceback" in _log(copy).read_text(errors="replace") else []
    faults += [f"only {len(said)} commands ended"] if len(said) < len(order) else []
    if faults:
        tally.fault(number, f"{what} in {copy}, then {' '.join(order)}: {'; '.join(faults)}")
    else:
        shutil.rmtree(copy)
        _log(copy).unlink()


def commands(root: Path) -> dict[str, list[str]]:
    """Return what is called, by its first word."""
    return {
        "run": ["run", PRESET, "--out", str(root)],
        "eval": ["eval", str(root), "--episodes", "2", "--json"],
        "report": ["report", str(root)],
    }


def _log(root: Path) -> Path:
    return root.with_name(f"{root.name}.log")


def _life(root: Path, config: Config, order: Sequence[str]) -> list[tuple[str, int, Any]]:
    """Call the commands in that order; return word, exit code and result of each that ended."""
    answers = root.with_name(f"{root.name}.answers")
    answers.unlink(missing_ok=True)
    life = Life(_log(root), _call, root, config, order, answers)
    if not life.ended(LONGEST):
        life.kill(session=True)
    lines = answers.read_text().splitlines() if answers.exists() else []
    answers.unlink(missing_ok=True)
    return [tuple(json.loads(line)) for line in lines]


def _call(root: Path, config: Config, order: Sequence[str], answers: Path) -> None:
    for word in order:
        told = io.StringIO()
        with redirect_stdout(told):
            code = irevla(commands(root)[word], config)
        result = _result(word, root, told.getvalue()) if code == 0 else None
        with answers.open("a") as file:
            file.write(json.dumps([word, code, result]) + "\n")


def _result(word: str, root: Path, told: str) -> Any:
    if word != "eval":
        return [list(row) for row in counts(root)]
    rows = json.loads(told)
    return [[row["task"], row["successes"], row["env_steps"]] for row in rows]


# --- Damage


def damage(luck: Random, root: Path) -> str:
    """Damage one file under `root`; say which, and how."""
    path = _some_file(luck, root)
    how = luck.choice(DAMAGES)
    data = path.read_bytes()
    place = luck.randrange(len(data)) if data else 0
    if how == "cut":
        path.write_bytes(data[:place])
    elif how == "flip" and data:
        bit = 1 << luck.randrange(8)
        path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
    elif how == "append":
        path.write_bytes(data + luck.randbytes(luck.randrange(1, MOST)))
    elif how == "swap":
        place = _swap(luck, path, root)
    elif how == "directory":
        path.unlink()
        path.mkdir()
    elif how == "delete":
        path.unlink()
    else:
        path.write_bytes(b"")
    return f"{how} of {path.relative_to(root)} ({len(data)} bytes, at {place})"


def _some_file(luck: Random, root: Path) -> Path:
    """Draw a folder of the run or a file beside them, then a file in it: most are images."""
    places = [path for path in sorted(root.iterdir()) if path.is_file() or any(_files(path))]
    place = luck.choice(places)
    return place if place.is_file() else luck.choice(_files(place))


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _swap(luck: Random, path: Path, root: Path) -> int:
    """Exchange the contents of two files of one kind; return which other one it was."""
    others = [each for each in _files(root) if each.suffix == path.suffix and each != path]
    if not others:
        return -1
    number = luck.randrange(len(others))
    mine, its = path.read_bytes(), others[number].read_bytes()
    path.write_bytes(its)
    others[number].write_bytes(mine)
    return number
