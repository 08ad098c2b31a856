"""The command line: one clear line and exit code 2 for whatever a person can get wrong; nothing
overwritten."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from irevla.cli.main import main
from irevla.config import EnvConfig
from irevla.envs.suite import load_suite
from irevla.presets import find_preset


def complaint(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["rum"], "did you mean 'run'"),
        (["run", "quickstrat"], "did you mean 'quickstart'"),
        (["run", "pointmass", "--sft.step", "3"], "did you mean '--sft.steps'"),
        (["run", "pointmass", "--eval.video"], "did you mean '--eval.videos'"),
        (["run", "pointmass", "--no-eval.video"], "did you mean '--eval.no-videos'"),
        (["run", "pointmass", "--no-eval-videos"], "did you mean '--eval.no-videos'"),
        (["run", "pointmass", "--eval.novideos"], "did you mean '--eval.no-videos'"),
        (["run", "pointmass", "--sft.steps", "many"], "--sft.steps"),
        (["run", "pointmass", "--sft.steps"], "--sft.steps"),
        (["run", "pointmass", "--sft.steps", "-1"], "must be positive"),
        (["run", "pointmass", "--method", "irevl"], "did you mean 'irevla'"),
        (["run", "pointmass", "--lora.targets", "x"], "did you mean"),
        (["run", "pointmass", "--model.lora.targets", "x"], "set a rank or drop the targets"),
        (["tasks", "metawold"], "did you mean 'metaworld'"),
        (["tasks"], "suite"),
        (["eval", "/nowhere"], "there is no folder /nowhere"),
        (["report", "/nowhere"], "/nowhere"),
        (["bench", "rendr"], "did you mean 'render'"),
    ],
)
def test_a_mistake_gets_one_line(
    argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected.lower() in complaint(argv, capsys).lower()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--suite", "pointmas"], "unknown suite 'pointmas'"),
        (["--rl-tasks", "left-dics-new"], "unknown task"),
        (["--unseen-tasks", "left-disc", "--expert-tasks", "left-disc"], "unseen"),
        (["--expert.dataset", "/nowhere/data"], "/nowhere/data"),
        (["--from-checkpoint", "/nowhere/policy"], "/nowhere/policy"),
        (["--device", "quantum"], "quantum"),
        (["--eval.videos", "false"], "--eval.videos is a yes, --eval.no-videos a no"),
        (["--eval.videos=a=b"], "leave 'a=b' out"),
        (["a=b"], "--eval.episodes takes no 'a=b' besides its value"),
        (["--eval.no-videos=true"], "--eval.no-videos takes no value: leave 'true' out"),
        (["--sac.steps", "10", "20"], "--sac.steps takes no '20' besides its value"),
        (["--dry-run"], "unknown option '--dry-run'; see `irevla run pointmass --help`"),
    ],
)
def test_a_mistake_in_a_run_gets_one_line(
    options: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "run",
        "pointmass",
        "--out",
        str(tmp_path / "run"),
        "--expert.episodes",
        "1",
        "--eval.episodes",
        "1",
    ]
    assert main([*argv, *options]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("irevla: ") and expected in last
    assert not (
        tmp_path / "run"
    ).exists()  # so that the mended command is not refused as another run


def test_a_foreign_directory_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "not a run of irevla" in complaint(["run", "pointmass", "--out", str(tmp_path)], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_as_out_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    assert "cannot write" in complaint(
        ["run", "pointmass", "--out", str(tmp_path / "file" / "run")], capsys
    )


@pytest.mark.parametrize(
    "words", [["run", "pointmass"], ["reproduce", "figure5", "pointmass"], ["pretrain"]]
)
def test_a_folder_that_nobody_can_make_is_told_first(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = complaint([*words, "--out", "/proc/irevla/run"], capsys)
    assert said == "irevla: cannot write to /proc; choose another --out"


def test_other_settings_do_not_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from irevla.presets import find_preset
    from irevla.runs.run import open_run

    with open_run(tmp_path / "run", find_preset("pointmass")):
        pass
    said = complaint(
        ["run", "pointmass", "--out", str(tmp_path / "run"), "--sft.steps", "7"], capsys
    )
    assert "sft.steps: 600 -> 7" in said or "sft.steps" in said


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    start = time.monotonic()
    code = (
        "import sys; from irevla.cli.main import main; main(['--help']); main(['run', "
        "'--help']);"
        "assert not {'torch', 'numpy', 'mujoco', 'transformers', 'pyarrow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("run", "eval", "collect", "data", "tasks", "report", "push", "bench"):
        assert f"  {command} " in done.stdout
    assert (
        time.monotonic() - start < 5
    )  # half a second on an idle machine; the import check is the real one


def test_it_says_which_irevla_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(
        r"irevla \d+\.\d+\.\d+( \(commit [0-9a-f]+(-dirty)?\))?\n", capsys.readouterr().out
    )


def test_names_of_tasks_can_be_copied_from_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "44")
    assert main(["tasks", "metaworld"]) == 0
    shown = capsys.readouterr().out
    assert all(f" {task.name} " in shown for task in load_suite("metaworld").tasks)


def test_tasks_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "pointmass", "--json"]) == 0
    tasks = json.loads(capsys.readouterr().out)
    assert {task["category"] for task in tasks} == {"expert", "rl", "unseen"}
    assert all(task["instruction"] for task in tasks)


@pytest.mark.parametrize(
    ("vlm", "message"),
    [
        ("tini", "did you mean 'tiny'"),
        ("./no/such/folder", "there is no folder ./no/such/folder"),
    ],
)
def test_a_vlm_that_does_not_exist_is_refused_before_anything_is_written(
    vlm: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["run", "pointmass", "--model.vlm", vlm, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not out.exists()


def test_collect_wants_the_suite_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "--out", str(tmp_path / "demos"), "pointmass"]) == 2
    assert "name the suite first" in capsys.readouterr().err and not (tmp_path / "demos").exists()


@pytest.mark.parametrize("option", [["--tasks", "nix"], ["--env.cameras", "front"]])
def test_a_refused_collection_leaves_nothing(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complaint(["collect", "pointmass", *option, "--out", str(tmp_path / "demos")], capsys)
    assert not (tmp_path / "demos").exists()


def test_collect_is_what_run_would_collect(tmp_path: Path) -> None:
    out = tmp_path / "demos"
    assert (
        main(
            [
                "collect",
                "pointmass",
                "--tasks",
                "left-disc",
                "--expert.episodes",
                "2",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    info = json.loads((out / "meta" / "info.json").read_text())
    assert info["total_episodes"] == 2
    (shape,) = [feature["shape"] for name, feature in info["features"].items() if "image" in name]
    side = find_preset("pointmass").env.image_size
    assert side != EnvConfig().image_size and shape[:2] == [side, side]


@pytest.mark.parametrize(
    ("option", "path", "value"),
    [
        (["--sac.apart"], ("sac", "async_learner"), True),
        (["--sac.no-apart"], ("sac", "async_learner"), False),
        (["--sl.online-share", "0.5"], ("mixture", "online_share"), 0.5),
        (["--sft.colour=0.2"], ("sft", "augment", "colour"), 0.2),
        (["--sl.words", "0.1"], ("sl", "augment", "words"), 0.1),
    ],
)
def test_options_of_version_0_1_are_understood(
    option: list[str], path: tuple[str, ...], value: object
) -> None:
    from irevla.cli.arguments import parse
    from irevla.config import Config

    found: object = parse(Config, option, prog="irevla run")
    for name in path:
        found = getattr(found, name)
    assert found == value
