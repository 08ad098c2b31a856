"""kill -9 at random moments, again and again, until the run ends by itself.

A case that is repeated has the same moments; what is done in them, the machine's load decides.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random

from injector.lives import (
    LONGEST,
    Life,
    counts,
    differences,
    irevla_and_exit,
    left,
    leftovers,
    orphans,
)
from injector.settings import TASK, Kind, kinds, reference
from injector.tally import Tally
from irevla.data.episodes import EpisodeStore
from irevla.data.replay import LatentReplay, reopen
from irevla.errors import UserError
from irevla.models.policy import VLAPolicy
from irevla.storage import checkpoint

MEAN = 1.5  # seconds that a life lasts on average


def attack(count: int, *, seed: int, folder: Path, first: int = 0, mean: float = MEAN) -> Tally:
    """Kill `count` times, in runs of each kind by turns."""
    tally = Tally("kills", seed)
    all_kinds = kinds(folder)
    number = first
    while tally.counts["kills"] < count:
        kind = all_kinds[number % len(all_kinds)]
        most = count - tally.counts["kills"]
        one_run(tally, number, kind, folder=folder, most=most, mean=mean)
        number += 1
    return tally


def one_run(tally: Tally, number: int, kind: Kind, *, folder: Path, most: int, mean: float) -> None:
    """Kill one run at most `most` times, and compare it with one that nothing stopped."""
    whole = reference(kind, folder)
    root = folder / f"killed-{number}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    said = folder / f"killed-{number}.log"
    lives = _live_until_done(kind, root, said, tally.luck(number), most=most, mean=mean)
    tally.counts["kills"] += len(lives) - 1
    tally.counts[f"runs of {kind.name}"] += 1
    faults = _faults_of_lives(lives)
    faults += _faults_of_run(kind, root, whole) if lives[-1].code == 0 else []
    for text in faults:
        tally.fault(number, f"{kind.name} in {root}: {text}", count=len(lives) - 1)
    if not faults:
        shutil.rmtree(root)
        said.unlink()


def _live_until_done(
    kind: Kind, root: Path, said: Path, luck: Random, *, most: int, mean: float
) -> list[Life]:
    """Start the same command until it ends by itself; return all lives, the last one whole."""
    lives: list[Life] = []
    while True:
        life = Life(said, irevla_and_exit, kind.words(root), kind.config)
        lives.append(life)
        moment = luck.expovariate(kind.pace / mean) if len(lives) <= most else LONGEST
        if life.ended(moment):
            return lives
        life.kill(session=moment == LONGEST or luck.random() < 0.5)
        if moment == LONGEST:
            return lives
        if luck.random() < 0.5:  # otherwise the next life meets those whom this one left
            orphans([life])


def _faults_of_lives(lives: Sequence[Life]) -> list[str]:
    faults = [f"orphan: {line}" for line in orphans(lives)]
    text = lives[0].said.read_text(errors="replace")
    if "Traceback" in text:
        faults.append(f"a traceback in {lives[0].said}")
    if lives[-1].code != 0:
        faults.append(f"the last life ended with {lives[-1].code}: {lives[-1].text()[-300:]}")
    return faults


def _faults_of_run(kind: Kind, root: Path, whole: Path) -> list[str]:
    faults = [f"left over: {name}" for name in leftovers(root)]
    if kind.repeats:
        other = differences(left(root), left(whole))
        faults += [f"other bytes: {other}"] if other else []
        faults += ["other counts"] if counts(root) != counts(whole) else []
    else:
        faults += invariants(root, updates_per_decision=kind.config.sac.updates_per_decision)
    return faults


def invariants(root: Path, *, updates_per_decision: float) -> list[str]:
    """Return what is wrong in a run of SAC that does not repeat to the bit."""
    try:
        return _broken(root, updates_per_decision=updates_per_decision)
    except UserError as error:  # what a reader refuses
        return [str(error)]


def _broken(root: Path, *, updates_per_decision: float) -> list[str]:
    faults = []
    lines = [json.loads(line) for line in (root / "journal.jsonl").read_text().splitlines()]
    (done,) = [line for line in lines if line["event"] == f"rl:{TASK}"]
    if done["updates"] != int(updates_per_decision * done["decisions"]):
        faults.append(f"{done['updates']} updates for {done['decisions']} decisions")
    buffers = [reopen(root / "latents" / TASK / name) for name in ("demonstrations", "online")]
    if len(buffers[1]) != done["decisions"]:
        faults.append(f"{len(buffers[1])} decisions stored of {done['decisions']}")
    faults += _twice(buffers, EpisodeStore(root / "online"))
    for path in (root / "checkpoints").glob("[!.]*"):
        checkpoint.load(path, as_saved=True)
    VLAPolicy.from_pretrained(root)
    return faults


def _twice(buffers: Sequence[LatentReplay], online: EpisodeStore) -> list[str]:
    practised = [each["seed"] for buffer in buffers for each in buffer.episodes]
    stored = [(each.provenance.task, each.provenance.seed) for each in online.episodes]
    online.read()
    return [
        f"an episode twice in {name}"
        for name, seen in (("latents", practised), ("online", stored))
        if len(set(seen)) != len(seen)
    ]
