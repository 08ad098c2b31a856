import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from irevla.config import Config
from irevla.errors import UserError
from irevla.evaluation.model_card import success_table
from irevla.evaluation.report import describe, headline, notes, write_report
from irevla.evaluation.stats import Row, read_results
from irevla.tasks import SFT, Category

Make = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("coarse_plots")


class Links(HTMLParser):
    """Everything that a browser would fetch, and whether tags balance."""

    VOID = ("meta", "link", "img", "source", "br")

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value or ""
            for name, value in attrs
            if name in ("src", "srcset", "href", "poster", "action")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def rows_of_stage_0() -> list[Row]:
    return [
        Row.of(
            method="irevla",
            task=category.value,
            category=category,
            stage=SFT.name,
            seed=0,
            successes=5,
            episodes=10,
            env_steps=1,
            seconds=1.0,
        )
        for category in Category
    ]


def parsed(page: str) -> Links:
    links = Links()
    links.feed(page)
    assert not links.open
    return links


def test_the_report_is_whole_and_needs_nothing_else(make_run: Make) -> None:
    run = make_run()
    path = write_report(run)
    page = path.read_text()
    links = parsed(page)
    assert path == run / "report.html"
    assert links.links and all(link.startswith("data:") for link in links.links)
    assert (
        "http://" not in page
        and "https://" not in page
        and "url(" not in page
        and "@import" not in page
    )
    results = read_results(run / "results.json")
    for task in results.tasks():
        assert page.count(task) >= 2
    assert links.tags.count("video") == 8 and page.count("✗ failure") == 2
    assert links.tags.count("img") == 4 and len(list((run / "plots").glob("*.png"))) == 8
    for text in (
        *("42/50", "71–92%", "▼ −30", "3f2a91c04b7d"),
        "irevla run quickstart --out &#39;runs/my run&#39;",
        "3 episodes were dropped",
        "colour_share: 0.8",
    ):
        assert text in page


def test_the_headline_says_what_happened(make_run: Make) -> None:
    results = read_results(make_run() / "results.json")
    assert headline(results) == (
        "RL tasks rose from 32% to 82%; expert tasks went from 89% to 91%, within noise; "
        "unseen tasks went from 39% to 28%, within noise."
    )


def test_blind_success_is_called_out(make_run: Make) -> None:
    run = make_run()
    (note,) = (
        text
        for text in notes(run, read_results(run / "results.json"))
        if text.startswith("A blind replay")
    )
    assert "door-open-shifted" in note and "window-close" not in note


def test_an_unfinished_run_has_a_report_that_says_so(make_run: Make) -> None:
    page = write_report(make_run([])).read_text()
    parsed(page)
    assert "Nothing has been evaluated yet." in page and page.count("No data yet.") == 4
    assert "No videos" in page and "not finished" in page


def test_own_training_of_later_rounds_is_framed(make_run: Make) -> None:
    run = make_run()
    rows = read_results(run / "results.json").rows
    later = [replace(row, stage=f"{row.stage}@2") for row in rows if ":" in row.stage]
    whole = json.loads((run / "results.json").read_text())
    whole["rows"] += [row.to_json() for row in later]
    (run / "results.json").write_text(json.dumps(whole))
    page = write_report(run).read_text()
    assert page.count('<td class="own') == 2 * 2 * 2  # RL tasks, stages 1 and 2, rounds


@pytest.mark.parametrize("git", ["", "3f2a91c04b7d-dirty"])
def test_a_run_of_unknown_code_says_so(git: str, make_run: Make) -> None:
    run = make_run(git=git)
    found = [note for note in notes(run, read_results(run / "results.json")) if "code" in note]
    assert len(found) == 1
    assert "not known" in found[0]
    assert found[0] in write_report(run).read_text()


def test_a_run_of_a_commit_has_no_such_note(make_run: Make) -> None:
    run = make_run()
    assert not [note for note in notes(run, read_results(run / "results.json")) if "code" in note]


@pytest.mark.parametrize(("learner", "gripper"), [("ppo", False), ("sac", True)])
def test_the_page_says_how_the_policy_acts(learner: str, gripper: bool, make_run: Make) -> None:
    page = write_report(make_run(rows_of_stage_0(), config=Config(rl=learner))).read_text()
    assert ("the gripper is drawn" in page) == gripper
    assert ("every action is the policy&#39;s mean" in page) != gripper
    assert "Deterministic" not in page


def test_no_column_is_there_that_nothing_fills(make_run: Make) -> None:
    assert "Scripted expert" not in write_report(make_run(rows_of_stage_0())).read_text()


COMMITTED = sorted(
    path
    for path in (Path(__file__).parents[2] / "results").glob("**/results.json")
    if "stage" in path.read_text()
)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_results_of_older_versions_can_be_read(path: Path) -> None:
    results = read_results(path)
    assert headline(results) != "Nothing has been evaluated yet."
    assert success_table(results).count("\n") > 12


@pytest.mark.parametrize("name", ["kitchen/stage-0", "panda/seed-0"])
def test_runs_of_older_versions_have_a_page(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    committed = Path(__file__).parents[2] / "results" / name
    shutil.copytree(committed, run, ignore=shutil.ignore_patterns("*.png", "*.html", "*.mp4"))
    page = write_report(run).read_text()
    parsed(page)
    assert page.count("No data yet.") == (name == "kitchen/stage-0")  # no RL, no learning curve


def test_names_cannot_break_the_page(make_run: Make) -> None:
    run = make_run([])
    text = (run / "results.json").read_text().replace("3f2a91c04b7d", "<script>alert(1)</script>")
    (run / "results.json").write_text(text)
    assert "<script>" not in write_report(run).read_text()


@pytest.mark.parametrize(
    ("name", "text"), [("results.json", "{"), ("videos/index.json", '{"push": ')]
)
def test_torn_files_are_told(make_run: Make, name: str, text: str) -> None:
    run = make_run()
    (run / name).write_text(text)
    with pytest.raises(UserError, match="damaged"):
        write_report(run)


def test_methods_are_described_as_they_are() -> None:
    assert "VLM frozen" in describe("irevla") and "whole model" in describe("ppo-replay")
    assert "reinforcement" not in describe("sft") and "demonstrations" not in describe("scratch")
