"""Break runs on purpose and look whether they mend: kill -9, damaged files, lost workers, full
disks, mutated files of others.

    .venv/bin/python scripts/attack.py                      # all parts, whole: about an hour
    .venv/bin/python scripts/attack.py kills disks --count 20
    .venv/bin/python scripts/attack.py files --seed 3 --first 417 --count 1   # one case again

Each part ends with a line of counts. The exit code is 1 where anything failed.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from injector import corruptions, disks, files, kills, peers, workers
from injector.tally import Tally

PARTS: dict[str, tuple[Callable[..., Tally], int]] = {
    "kills": (kills.attack, 300),
    "corruptions": (corruptions.attack, 200),
    "workers": (workers.attack, 50),
    "disks": (disks.attack, 50),
    "files": (files.attack, 10_000),
    "peers": (peers.attack, 8),
}
"""What does it, and how many times in the whole attack."""


def main(argv: list[str]) -> int:
    """Run the parts that are named, or all of them."""
    arguments = _arguments().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="attack-") as temporary:
        folder = (arguments.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        tallies = [_run(name, arguments, folder) for name in arguments.parts or PARTS]
    faults = [fault for tally in tallies for fault in tally.faults]
    print(*faults, sep="\n")
    return 1 if faults else 0


def _run(name: str, arguments: argparse.Namespace, folder: Path) -> Tally:
    attack, whole = PARTS[name]
    start = time.monotonic()
    count = arguments.count or whole
    tally = attack(count, seed=arguments.seed, folder=folder, first=arguments.first)
    print(f"{tally} ({time.monotonic() - start:.0f} s)", flush=True)
    return tally


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="none: all")
    parser.add_argument("--count", type=int, default=0, help="of each part; 0: the whole")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--folder", type=Path, help="where to keep what is attacked")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
