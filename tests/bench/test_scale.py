"""`irevla bench scale`: where its costs come from, and that it runs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from irevla.bench import scale
from irevla.bench.simulation import Costs

RESULTS = Path(__file__).parents[2] / "results" / "bench"


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return found


def test_the_costs_of_blip2_are_those_that_were_measured() -> None:
    in_rollouts = result("h100/encode-blip2-lora-16.json")
    many = result("h100/encode-blip2.json")
    update = result("h200/ppo-update-blip2.json")
    costs = scale.BLIP2
    assert costs["image"] == pytest.approx(many["seconds"] / many["batch"], rel=1e-3)
    whole = costs["encode"] + in_rollouts["batch"] * costs["image"]
    assert whole == pytest.approx(in_rollouts["seconds"], rel=1e-3)
    assert costs["update"] == pytest.approx(update["cached_seconds"] / update["samples"], rel=1e-3)
    assert costs["head"] == many["weights"]["float32"] * 4


def test_more_gpus_are_used_less_well_and_what_holds_them_up_is_named() -> None:
    costs = Costs(
        step=1e-3, encode=1e-3, image=1e-3, act=0.0, update=1e-4, pack=1e-9, unpack=1e-9,
        head=1e5, decision=5e3, **scale.NETWORK,
    )  # fmt: skip
    assert len(list(scale._many(replace(costs, **scale.BLIP2)))) == 7
    rows = list(scale._many(costs))
    assert [row["gpus"] for row in rows] == [8, 16, 32, 64, 128, 256, 512]
    efficiency = [row["efficiency"] for row in rows]
    assert efficiency == sorted(efficiency, reverse=True)
    rates = [row["decisions_per_s"] for row in rows]
    assert rates == sorted(rates)
    assert rows[-1]["bottleneck"] == "learner" and rows[-1]["idle"] > 0.9
    assert all(row["asynchronous"]["decisions_per_s"] > row["decisions_per_s"] for row in rows)
    assert all(row["staleness"] == 0 < row["asynchronous"]["staleness"] <= 2 for row in rows)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_measures_and_plays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr(scale, "HERE", (1, 2))
    monkeypatch.setattr(scale, "DECISIONS", 16)
    monkeypatch.setattr(scale, "REPEATS", 2)
    found = scale.run(suite="pointmass")
    assert [row["actors"] for row in found["here"]] == [1, 2]
    assert all(row["decisions_per_s"] > 0 and row["simulated"] > 0 for row in found["here"])
    assert found["costs"]["bandwidth"] > 1e6 and found["costs"]["decision"] > 1000
    assert len(found["small_vlm"]) == len(found["blip2"]) == 7
