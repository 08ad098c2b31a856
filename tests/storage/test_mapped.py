"""Images lie in a file without a name, which the operating system may drop from memory."""

import gc
import os
from errno import ENOSPC
from pathlib import Path

import numpy as np
import pytest

from irevla.errors import UserError
from irevla.storage.mapped import mapped


def mappings(folder: Path) -> int:
    """How many files of a folder this process has mapped."""
    return Path("/proc/self/maps").read_text().count(f"{folder}/")


def test_it_is_a_file_without_a_name_and_ends_with_the_array(tmp_path: Path) -> None:
    array = mapped((3, 8, 8, 3), beside=tmp_path)
    assert array.shape == (3, 8, 8, 3) and not array.any() and array.flags.writeable
    array[1] = 7
    assert array[1].all() and not array[2].any()
    assert mappings(tmp_path) == 1 and list(tmp_path.iterdir()) == []
    del array
    gc.collect()
    assert mappings(tmp_path) == 0


def test_none_at_all(tmp_path: Path) -> None:
    assert mapped((0, 8, 8, 3), beside=tmp_path).shape == (0, 8, 8, 3)


def test_without_room_it_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"cannot keep 3 MiB of images in .*: No space .*make room"):
        mapped((1, 1024, 1024, 3), beside=tmp_path)


def test_beside_what_is_not_writable_it_is_a_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    array = mapped((1, 8, 8, 3), beside=tmp_path / "dataset")
    assert mappings(folder) == 1 and isinstance(array, np.ndarray)
