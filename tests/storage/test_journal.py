import os
import subprocess
import sys
from pathlib import Path

import pytest

from irevla.errors import UserError
from irevla.storage.journal import Journal, run_lock


def test_events_come_back_in_order_with_their_fields(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    assert list(journal) == [] and journal.done("sft") is None
    journal.append("sft", loss=0.1)
    journal.append("rl a")
    journal.append("sft", loss=0.05)
    assert [record["event"] for record in Journal(journal.path)] == ["sft", "rl a", "sft"]
    assert (journal.done("sft") or {})["loss"] == 0.05


def test_a_torn_last_line_is_no_event_and_is_cut(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("sft")
    with journal.path.open("a") as file:
        file.write('{"event": "rl", "ti')
    assert [record["event"] for record in journal] == ["sft"]
    assert journal.done("rl") is None
    journal.append("rl")
    assert [record["event"] for record in journal] == ["sft", "rl"]


def test_rewound_it_has_the_first_events_and_goes_on_from_there(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for number in range(4):
        journal.append(f"event {number}")
    journal.rewind(2)
    journal.append("another")
    assert [record["event"] for record in journal] == ["event 0", "event 1", "another"]


def test_a_bad_line_inside_is_told(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event": "sft"}\n{"event": \n{"event": "rl"}\n')
    with pytest.raises(UserError, match="line 2"):
        list(Journal(path))


def test_two_processes_cannot_run_in_one_directory(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from irevla.storage.journal import run_lock\n"
        "with run_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdin is not None and other.stdout is not None
    with other, other.stdin, other.stdout:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"process {other.pid} is running"), run_lock(tmp_path):
            pass
        other.kill()
        other.wait()
    with run_lock(tmp_path):  # the kernel let go
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
