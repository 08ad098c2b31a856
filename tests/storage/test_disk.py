from pathlib import Path

import pytest

from irevla.storage.disk import writing


def test_a_file_changes_wholly_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with writing(path) as aside:
        aside.write_text("old")
    with pytest.raises(RuntimeError, match="half-way"), writing(path) as aside:
        aside.write_text("ne")
        assert path.read_text() == "old"
        raise RuntimeError("half-way")
    assert path.read_text() == "old"
    with writing(path) as aside:
        aside.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path], "nothing is left beside it"


def test_two_files_of_one_folder_do_not_meet(tmp_path: Path) -> None:
    with writing(tmp_path / "a") as first, writing(tmp_path / "b") as second:
        first.write_text("a")
        second.write_text("b")
    assert [(tmp_path / name).read_text() for name in "ab"] == ["a", "b"]
