"""What was kept of what had been learnt, and what an hour of the arm brought: by hand."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from irevla.config import Config
from irevla.config_io import to_dict
from irevla.envs.suite import SUITES
from irevla.evaluation.practice import per_hour, robot_hours
from irevla.evaluation.report import write_report
from irevla.evaluation.stats import Results, Row, read_results
from irevla.evaluation.tables import cells, headers, markdown, practised, transfer
from irevla.evaluation.transfer import backward_transfer, forgotten
from irevla.tasks import SFT, Category

CONFIG = to_dict(Config(suite="metaworld", rl_tasks=("a", "b"), unseen_tasks=("u",)))
STAGES = ("sft", "rl:a", "sl:a", "rl:b", "sl:b")
RATES = {  # after each of STAGES
    "e": (0.9, 0.1, 0.8, 0.2, 0.6),
    "a": (0.2, 0.7, 0.8, 0.9, 0.5),
    "b": (0.1, 0.1, 0.1, 0.9, 0.8),
    "u": (0.3, 0.3, 0.3, 0.3, 0.3),
}
CATEGORIES = {"e": Category.EXPERT, "a": Category.RL, "b": Category.RL, "u": Category.UNSEEN}


def results(
    rates: Mapping[str, tuple[float, ...]] = RATES, stages: tuple[str, ...] = STAGES
) -> Results:
    rows = [
        Row.of(
            method="irevla", task=task, category=CATEGORIES[task], stage=stage, seed=0,
            successes=round(100 * each[STAGES.index(stage)]), episodes=100,
            env_steps=1, seconds=1.0,
        )
        for stage in stages
        for task, each in rates.items()
    ]  # fmt: skip
    return Results(CONFIG, "", {}, "", tuple(rows), practice=36_000)


def test_backward_transfer_is_from_the_end_of_a_tasks_own_turn() -> None:
    expert = backward_transfer(results(), Category.EXPERT)
    rl = backward_transfer(results(), Category.RL)  # of a alone: b was learnt last
    assert expert and expert.difference == pytest.approx(0.6 - 0.9)
    assert rl and rl.difference == pytest.approx(0.5 - 0.8)
    assert rl.ci95[0] < -0.3 < rl.ci95[1]


def test_forgetting_is_from_the_best_since_then() -> None:
    assert forgotten(results(), Category.EXPERT) == pytest.approx(0.9 - 0.6)
    assert forgotten(results(), Category.RL) == pytest.approx(0.9 - 0.5)
    risen = {**RATES, "e": (0.3, 0.1, 0.4, 0.2, 0.6)}
    assert forgotten(results(risen), Category.EXPERT) == pytest.approx(0.4 - 0.6)


def test_what_was_not_measured_is_not_made_up() -> None:
    ends = results(stages=("sft", "sl:b"))
    assert backward_transfer(ends, Category.RL) is None and forgotten(ends, Category.RL) is None
    assert forgotten(ends, Category.EXPERT) == pytest.approx(0.3)
    assert "RL tasks" not in transfer(ends) and "Expert tasks: backward" in transfer(ends)
    assert transfer(results(stages=("sft",))) == "No task was measured again later on."
    assert backward_transfer(results(), Category.UNSEEN) is None


def test_what_rl_trains_is_no_expert_task_even_if_it_is_demonstrated() -> None:
    one = results()
    rows = [replace(row, category=Category.EXPERT) if row.task == "a" else row for row in one.rows]
    demonstrated = replace(one, rows=tuple(rows))
    assert forgotten(demonstrated, Category.EXPERT) == forgotten(one, Category.EXPERT)
    assert forgotten(demonstrated, Category.RL) == forgotten(one, Category.RL)


def test_gains_in_an_hour_of_the_arm() -> None:
    one = results()
    assert robot_hours(one) == pytest.approx(0.25)  # 36,000 decisions, 40 of them a second
    line = one.line(Category.RL)
    hours = robot_hours(one)
    gained = per_hour(line.change, hours)
    assert gained and line.change and hours
    assert gained.difference == pytest.approx(line.change.difference / hours)
    assert headers(one)[-1] == "Per robot hour" and len(cells(line, hours)) == len(headers(one))
    idle = replace(one, practice=0)
    assert per_hour(line.change, robot_hours(idle)) is None
    assert headers(idle)[-1] == "Difference" and practised(idle) == ""
    assert "not known" in practised(replace(one, practice=None))
    assert headers(one)[-1] in markdown(one) and headers(one)[-1] not in markdown(idle)


def test_results_are_read_where_the_suites_package_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUITES, "metaworld", "no_such_package.suite:METAWORLD")
    assert robot_hours(results()) is None
    assert "not known" in practised(results()) and markdown(results())


def test_practice_is_that_of_the_journal(make_run: Callable[..., Path]) -> None:
    run = make_run()
    events = [
        {"event": "rl:window-close-new", "decisions": 1000, "dropped": 0},
        {"event": "harvest:window-close-new", "decisions": 440},
        {"event": "sl:window-close-new", "skipped": 0},
    ]
    journal = run / "journal.jsonl"
    journal.write_text("".join(json.dumps(event) + "\n" for event in events))
    found = read_results(run / "results.json")
    assert found.practice == 1440 and robot_hours(found) == pytest.approx(0.01)
    page = write_report(run).read_text()
    assert "<th>Per robot hour</th>" in page and "backward transfer" in page
    del events[1]["decisions"]  # as journals of version 0.1 have it
    journal.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert read_results(run / "results.json").practice is None
    journal.unlink()
    assert read_results(run / "results.json").practice is None
    assert SFT in found.stages
