"""Tables and figures of the paper, on the toy suite: every run once, and nothing made up."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from irevla.cli.main import main
from irevla.config import (
    Config,
    EnvConfig,
    EvalConfig,
    ExpertConfig,
    HarvestConfig,
    ModelConfig,
    PPOConfig,
    SFTConfig,
)
from irevla.errors import UserError
from irevla.evaluation import evaluate
from irevla.evaluation.practice import robot_hours
from irevla.evaluation.stats import Results
from irevla.presets import PRESETS
from irevla.reproduce.figures import draw
from irevla.reproduce.found import MISSING, rates, read
from irevla.reproduce.grid import EVIDENCE, ROWS, SFT, cells, chosen
from irevla.reproduce.runs import take_over
from irevla.reproduce.style import colour
from irevla.reproduce.tables import table
from irevla.runs.run import open_run

pytestmark = pytest.mark.usefixtures("coarse_plots")
SUPERVISED = SFTConfig(steps=8, batch=8, validate_every=4, warmup=2)
TINY = Config(
    suite="pointmass",
    threads=1,
    expert_tasks=("left-disc",),
    rl_tasks=("left-disc-new",),
    unseen_tasks=("left-square-orange",),
    env=EnvConfig(image_size=32, horizon=12, workers=1, envs_per_worker=4),
    expert=ExpertConfig(episodes=4),
    model=ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16),
    sft=SUPERVISED,
    ppo=PPOConfig(steps=64, rollout=8, minibatch=16, warmup=1),
    harvest=HarvestConfig(episodes=1, attempts=4),
    sl=SUPERVISED,
    eval=EvalConfig(episodes=2, interim=0, videos=False),
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny-grid", ("for this test", TINY))


def test_every_row_is_a_method_and_every_table_has_rows() -> None:
    for _, rows in EVIDENCE.values():
        assert rows and set(rows) <= set(ROWS)


def test_all_rows_of_a_seed_start_from_one_stage_0_but_scratch(tmp_path: Path) -> None:
    grid = cells(TINY, ("irevla", "scratch"), (3, 4), tmp_path)
    assert [(cell.row, cell.seed) for cell in grid] == [
        (row, seed) for seed in (3, 4) for row in (SFT, "irevla", "scratch")
    ]
    first, irevla, scratch = (cell.config for cell in grid[:3])
    assert not first.from_checkpoint and not first.expert.dataset and first.seed == 3
    assert irevla.from_checkpoint == str(tmp_path / "sft" / "seed-3")
    assert irevla.expert.dataset == scratch.expert.dataset == f"{irevla.from_checkpoint}/expert"
    assert not scratch.from_checkpoint


def test_every_row_has_a_colour_of_its_own() -> None:
    assert len({colour(row) for row in ROWS}) == len(ROWS)


def test_some_rows_alone() -> None:
    assert chosen(("sft", "irevla", "more-sft"), ("more-sft", "sft")) == ("sft", "more-sft")


def test_end_to_end_ppo_has_the_rate_that_its_sweep_chose(tmp_path: Path) -> None:
    grid = cells(replace(TINY, suite="metaworld"), ("irevla", "ppo-replay"), (0,), tmp_path)
    assert [cell.config.ppo.lr for cell in grid[1:]] == [TINY.ppo.lr, 2e-5]
    asked = replace(TINY, suite="metaworld", ppo=replace(TINY.ppo, lr=1e-3))
    assert cells(asked, ("ppo-replay",), (0,), tmp_path)[1].config.ppo.lr == 1e-3


def test_a_policy_one_has_takes_the_place_of_stage_0(tmp_path: Path) -> None:
    given = replace(TINY, from_checkpoint="policy")
    grid = cells(given, ("irevla", "scratch"), (0,), tmp_path)
    assert [cell.config.from_checkpoint for cell in grid] == ["policy", "policy", ""]


def test_what_sac_cannot_run_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = cells(replace(TINY, rl="sac"), ("ppo-full", "irevla"), (0,), tmp_path)
    assert [cell.row for cell in grid] == [SFT, "irevla"]
    assert "no ppo-full: SAC trains no VLM" in capsys.readouterr().err


def test_a_row_that_is_another_one_here_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (_, by_sac) = cells(TINY, ("irevla-sac",), (0,), tmp_path)
    assert by_sac.config == replace(cells(TINY, ("irevla",), (0,), tmp_path)[1].config, rl="sac")
    assert len(cells(replace(TINY, rl="sac"), ("irevla-sac",), (0,), tmp_path)) == 1
    assert "no irevla-sac: it is irevla here" in capsys.readouterr().err
    told = replace(TINY, rl="sac", sac=replace(TINY.sac, other_words=True))
    (_, untold) = cells(told, ("own-words",), (0,), tmp_path)
    assert told.sac.other_words and not untold.config.sac.other_words
    assert len(cells(TINY, ("own-words",), (0,), tmp_path)) == 1


def test_the_same_augmentation_is_stage_0s(tmp_path: Path) -> None:
    stronger = replace(TINY.sl.augment, colour=0.7)
    changed = replace(TINY, sl=replace(TINY.sl, augment=stronger))
    config = cells(changed, ("same-augmentation",), (0,), tmp_path)[1].config
    assert config.method == "irevla" and config.sl.augment == config.sft.augment


def test_no_code_that_results_name_is_run_for_the_hours(tmp_path: Path) -> None:
    (tmp_path / "trap_suite.py").write_text("raise SystemExit('run')")
    results = Results({"suite": "trap_suite:SUITE"}, "", {}, "", (), practice=100)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        assert robot_hours(results) is None


@pytest.mark.usefixtures("tiny")
def test_a_table_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["reproduce", "figure4", "tiny-grid", "--seeds", "0", "--out", str(tmp_path)]
    assert main([*command, "--plot"]) == 0
    assert "No run has been evaluated yet." in capsys.readouterr().out
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "| **rl (1)** |" in said and MISSING not in said
    assert {path.name for path in tmp_path.glob("figure4*")} == {
        "figure4.md", "figure4.png", "figure4-curves.png", "figure4-forgetting.png",
    }  # fmt: skip
    before = {path: path.read_bytes() for path in tmp_path.glob("*/seed-0/*.jsonl")}
    assert main(command) == 0
    by_sac = ["reproduce", "controls", *command[2:], "--rows", "sft", "--rl", "sac"]
    assert main(by_sac) == 0, "stage 0 is the same, whatever follows it"
    assert {path: path.read_bytes() for path in before} == before, "nothing is run again"
    capsys.readouterr()
    assert main([*command, "--plot", "--rows", "irevla"]) == 0
    said_of_one = capsys.readouterr().out
    assert "| irevla |" in said_of_one and "ppo-full" not in said_of_one

    rows = ("irevla", "more-sft")
    found = read(tmp_path, (SFT, *rows), (0, 1))
    assert "more-sft" not in found and list(found["irevla"]) == [0]
    text = table(found, rows)
    assert MISSING in text and "- more-sft: seeds none" in text
    (rate,) = rates(found, "irevla", ("left-disc-new",)).each
    assert f"{rate:.2f} [" in text
    assert draw("other", tmp_path, rows, (0, 1)) == text
    assert "irevla against more-sft" not in text and "irevla against ppo-full" in said

    (practised,) = [each for each in said.splitlines() if each.startswith("| scratch |")]
    assert practised.split("|")[3].strip() == "–", "it did not begin with what SFT can"

    # Each task's own policy is what learning from scratch came to, and there is none of others.
    assert "scratch against sft, rl:" in said and "scratch against sft, expert" not in said

    assert main([*command, "--ppo.steps", "65"]) == 2
    assert "started with other settings" in capsys.readouterr().err

    results = tmp_path / "irevla" / "seed-0" / "results.json"
    results.write_text("{")  # what a run has lost it writes anew
    assert main(command) == 0
    assert capsys.readouterr().out == said

    journal = tmp_path / "irevla" / "seed-0" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]))
    assert "irevla" in read(tmp_path, ("irevla",), (0,)), "all is measured"
    _forget_the_end(journal)
    assert "irevla" not in read(tmp_path, ("irevla",), (0,)), "it is not finished"

    (tmp_path / "stage1-only").mkdir()
    (tmp_path / "ppo-full" / "seed-0").rename(tmp_path / "stage1-only" / "seed-0")
    with pytest.raises(UserError, match="is a run of ppo-full, seed 0"):
        read(tmp_path, ("stage1-only",), (0,))


def _forget_the_end(journal: Path) -> None:
    """As if the run had been stopped before its last evaluation."""
    lines = journal.read_text().splitlines(keepends=True)
    last = json.loads(lines[-1])
    stage = last["event"].removeprefix("evaluated ")
    assert last["event"] != stage
    journal.write_text("".join(lines[:-1]))
    path = journal.with_name("results.json")
    results = json.loads(path.read_text())
    results["rows"] = [row for row in results["rows"] if row["stage"] != stage]
    path.write_text(json.dumps(results))


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["table2", "tiny-grid"], "table or figure"),
        (["table1", "tiny-gird"], "preset"),
        (["table1"], "name a preset too"),
        (["tabel1"], "table1"),
        (["table1", "tiny-grid", "--seeds", "0", "1000"], "0..999"),
        (["table1", "tiny-grid", "--seeds", "0", "0"], "each seed once"),
        (["table1", "tiny-grid", "--rows", "irevle"], "did you mean 'irevla'"),
        (["table1", "tiny-grid", "--seed", "1"], "leave --seed out: --seeds settle it"),
        (["table1", "tiny-grid", "--method", "sft"], "leave --method out"),
    ],
)
def test_bad_input(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
def test_the_forgetting_matrix_of_a_grid_that_measures_after_each_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "table1", "tiny-grid", "--seeds", "0", "--rows", "irevla"]
    two = ["--rl-tasks", "left-disc-new", "right-square-new", "--eval.interim", "1"]
    assert main([*command, *two, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    stages = "SFT | RL left-disc-new | SL left-disc-new | RL right-square-new | SL right-square-new"
    assert f"|  | blind | {stages} |" in said
    matrix = said[said.index("Success after each stage of irevla") :].partition("Differences")[0]
    lines = [line for line in matrix.splitlines() if line.startswith("| right-square-new |")]
    assert lines[0].count("**") == 4 and MISSING not in matrix
    (numbers,) = (line for line in said.splitlines() if line.startswith("| irevla |"))
    assert MISSING not in numbers and "–" not in numbers
    assert (tmp_path / "table1-forgetting.png").stat().st_size > 10_000


@pytest.mark.usefixtures("tiny")
def test_what_rows_share_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And comes out as if each had measured it alone."""
    played = []

    def counted(actor: Any, *args: Any, **kwargs: Any) -> Any:
        played.append((kwargs["method"], kwargs["stage"]))
        return plain(actor, *args, **kwargs)

    plain = evaluate._evaluate
    monkeypatch.setattr(evaluate, "_evaluate", counted)
    command = ["reproduce", "figure4", "tiny-grid", "--seeds", "0", "--rows", "irevla", "scratch"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    assert played.count(("blind-replay", "baseline")) == 1
    assert [method for method, stage in played if stage == "sft"] == [SFT, "scratch"]
    first, irevla = (_measured(tmp_path / row / "seed-0") for row in (SFT, "irevla"))
    scratch = _measured(tmp_path / "scratch" / "seed-0")
    assert first["baseline"] == irevla["baseline"] == scratch["baseline"]
    assert [row | {"method": "irevla"} for row in first["sft"]] == irevla["sft"]

    # With other episodes, or another policy at the start, everything is measured anew.
    taken = replace(TINY, from_checkpoint=str(tmp_path / "sft" / "seed-0"))
    for number, config in enumerate(
        [replace(taken, eval=replace(TINY.eval, seed=1)), replace(TINY, method="irevla")]
    ):
        with open_run(tmp_path / f"other-{number}", config) as run:
            take_over(run, tmp_path / "sft" / "seed-0")
            assert run.journal.done("evaluated sft") is None


def _measured(directory: Path) -> dict[str, list[dict[str, object]]]:
    """Stage -> its rows."""
    rows = json.loads((directory / "results.json").read_text())["rows"]
    return {row["stage"]: [each for each in rows if each["stage"] == row["stage"]] for row in rows}


def test_settings_that_cannot_be_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blind = replace(TINY, env=replace(TINY.env, cameras=("front",)))
    monkeypatch.setitem(PRESETS, "tiny-grid", ("for this test", blind))
    out = tmp_path / "grid"
    assert main(["reproduce", "figure5", "tiny-grid", "--seeds", "0", "--out", str(out)]) == 2
    assert "pointmass has one camera without a name" in capsys.readouterr().err
    assert not any(out.rglob("config.yaml"))
