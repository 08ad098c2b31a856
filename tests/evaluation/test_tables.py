from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from irevla.config import Config
from irevla.evaluation.stats import Results, Row, read_results
from irevla.evaluation.tables import (
    Summary,
    dropped,
    forgetting,
    headers,
    markdown,
    matrix_cell,
    rows_table,
    summary,
)
from irevla.tasks import SFT, Category, Stage

Make = Callable[..., Path]


def results_of(run: Path) -> Results:
    return read_results(run / "results.json")


def printed(table: Table | Summary, *, width: int = 160) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def line_of(text: str, task: str) -> str:
    return next(line for line in text.splitlines() if line.strip("| ").startswith(task))


def test_the_summary_has_every_count_interval_and_difference(make_run: Make) -> None:
    text = printed(summary(results_of(make_run())))
    line = line_of(text, "window-close-new")
    for cell in (
        "0.06 [0.02, 0.16] 3/50",
        "0.34 [0.22, 0.48] 17/50",
        "0.84 [0.71, 0.92] 42/50",
        "+0.50 [+0.31, +0.64]",
    ):
        assert cell in line
    assert "≈" not in line
    total = line_of(text, "Expert tasks (4)")
    assert "177/200" in total and "181/200" in total and "≈" in total
    assert "Mean over tasks: expert 0.885 → 0.905" in text


def test_a_narrow_terminal_gets_everything_too(make_run: Make) -> None:
    results = results_of(make_run())
    text = printed(summary(results), width=90)
    assert max(len(line) for line in text.splitlines()) <= 90
    for line in results.lines():
        for count in (line.blind, line.before, line.after):
            assert count and f"{count.successes}/{count.episodes}" in text
    assert text.count("≈") == 1 + sum(line.change.noise for line in results.lines() if line.change)
    assert line_of(text, "window-close-new")


def test_a_drop_is_shown(make_run: Make) -> None:
    results = results_of(make_run())
    for text in (printed(summary(results)), markdown(results)):
        line = line_of(text, "door-open-shifted")
        assert "−0.30 [−0.46, −0.11]" in line and "≈" not in line


def test_the_matrix_marks_own_training_and_drops(make_run: Make) -> None:
    results = results_of(make_run())
    text = printed(forgetting(results))
    assert line_of(text, "window-close-new").split()[1:] == [
        "0.34",
        "[0.85]",
        "[0.80]",
        "0.80",
        "0.84",
    ]
    assert line_of(text, "door-open-shifted").count("▼") == 3
    assert not dropped(results, "push", Stage("sl", "button-press-new"))


def test_the_matrix_marks_own_training_of_later_rounds() -> None:
    stages = (SFT, Stage("rl", "a"), Stage("sl", "b"), Stage("rl", "a", 2), Stage("sl", "a", 2))
    rows = tuple(
        Row.of(
            method="irevla",
            task="a",
            category=Category.RL,
            stage=stage.name,
            seed=0,
            successes=5,
            episodes=10,
            env_steps=1,
            seconds=1.0,
        )
        for stage in stages
    )
    results = Results({}, "", {}, "", rows)
    cells = [matrix_cell(results, "a", stage) for stage in stages]
    assert cells == ["0.50", "[0.50]", "0.50", "[0.50]", "[0.50]"]


def test_pooled_expert_tasks_are_those_that_rl_does_not_train(make_run: Make) -> None:
    config = Config(rl_tasks=("window-close-new", "button-press-new", "push"))
    results = results_of(make_run(config=config))
    text = markdown(results)
    assert "expert tasks that RL does not train" in text
    assert "137/150" in line_of(text, "**Expert tasks (3)**")  # 177/200 without push
    assert "72/150" in line_of(text, "**RL tasks (3)**")
    assert text.count("| push |") == 2
    for column in headers(results):
        assert "xpert" not in column


def test_the_drop_of_an_rl_task_is_measured_from_its_own_training(make_run: Make) -> None:
    run = make_run()
    path = run / "results.json"
    text = path.read_text()
    assert (
        '"successes": 42' in text
    )  # window-close-new at the end: 0.84; make it 0.30, no lower than after SFT
    path.write_text(
        text.replace(
            '"successes": 42, "episodes": 50, "rate": 0.84',
            '"successes": 15, "episodes": 50, "rate": 0.3',
        )
    )
    assert dropped(results_of(run), "window-close-new", Stage("sl", "button-press-new"))


def test_an_unfinished_run_has_tables_too(make_run: Make) -> None:
    whole = results_of(make_run()).rows
    half = Results({}, "", {}, "", tuple(row for row in whole if row.stage in ("baseline", "sft")))
    text = printed(summary(half))
    assert "17/50" in text and "–" in line_of(text, "window-close-new")
    assert half.last is None
    assert printed(summary(Results({}, "", {}, "", ()))) and printed(
        forgetting(Results({}, "", {}, "", ()))
    )


def test_markdown_is_two_whole_tables(make_run: Make) -> None:
    text = markdown(results_of(make_run()))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == (2 + 11) + (2 + 8)
    assert {line.count("|") for line in rows[:13]} == {7} and {
        line.count("|") for line in rows[13:]
    } == {7}


def test_the_rows_of_one_evaluation(make_run: Make) -> None:
    rows = [row for row in results_of(make_run()).rows if row.stage == "sft"]
    text = printed(rows_table(rows))
    assert line_of(text, "push").split() == ["push", "expert", "0.80", "[0.67,", "0.89]", "40/50"]
    assert "177/200" in line_of(text, "Expert tasks (4)")
    assert "tasks" not in printed(rows_table(rows[:1]))


def test_the_rows_of_numbered_tasks_have_the_mean_of_each_series(make_run: Make) -> None:
    rows = [row for row in results_of(make_run()).rows if row.stage == "sft"][:4]
    names = ["spatial-0", "spatial-10", "object-swap-3", "push"]
    numbered = [replace(row, task=name) for row, name in zip(rows, names, strict=True)]
    text = printed(rows_table(numbered))
    solved = sum(row.successes for row in rows[:2])
    assert f"{solved}/100" in line_of(text, "spatial (2)")
    assert "object-swap (1)" not in text and "push (" not in text
