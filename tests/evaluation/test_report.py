from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from irevla.errors import UserError
from irevla.evaluation.report import describe, headline, notes, write_report
from irevla.evaluation.stats import read_results

Make = Callable[..., Path]


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
    for text in ("42/50", "71–92%", "▼ −30", "3f2a91c04b7d", "irevla run quickstart --out &#39;runs/my run&#39;",
                 "3 episodes were dropped", "colour_share: 0.8"):  # fmt: skip
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
