"""SAC's learner elsewhere, on which each fault is inflicted fifty times at moments drawn from a
seed: the same result, and only whole heads on the way."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from test_sac_elsewhere import CONFIG, Killed, Robot, robot, setting

from irevla.errors import UserError
from irevla.runs.run import open_run
from irevla.stages import sac_elsewhere, sac_trainer
from irevla.stages.sac_elsewhere import Courier
from irevla.storage.share import Share
from irevla.types import tensors_hash, weights_hash
from storms import Storm, drop, fill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

__all__ = ["robot"]  # the fixture

TIMES = 50


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The head after each update, as SAC in turn has it."""
    with open_run(tmp_path_factory.mktemp("inline"), CONFIG) as run:
        policy, learner = setting(run, 4)
        found = [tensors_hash(policy.action_head.state_dict())]
        while learner.pending_updates > 0:
            learner.update()
            found.append(tensors_hash(policy.action_head.state_dict()))
        found.append(weights_hash(policy.action_head))
    return found


class Sky:
    """Who has a storm, of the run and of the learners that it starts."""

    def __init__(self, patch: pytest.MonkeyPatch, heads: list[str]) -> None:
        self.storm: tuple[str, int, Callable[[], None], dict[str, int]] | None = None
        self.struck = 0
        self.seen = 0  # heads that came
        for module, side in ((sac_elsewhere, "here"), (sac_trainer, "there")):
            patch.setattr(module, "Share", lambda place, side=side: self.share(place, side))
        exchange = Courier._exchange

        def watched(courier: Courier) -> bool:
            found = exchange(courier)
            for head in list(courier.heads):
                assert tensors_hash(head) in heads, "half of it was installed"
                self.seen += 1
            return found

        patch.setattr(Courier, "_exchange", watched)

    def share(self, place: str, side: str) -> Share:
        share = Share(place)
        if self.storm is not None and self.storm[0] == side:
            _, at, happen, how = self.storm
            self.storm = None  # whoever comes next has none

            def counted() -> None:
                self.struck += 1
                happen()

            share._fs = Storm(share._fs, at, counted, **how)
        return share


@pytest.fixture
def sky(robot: Robot, heads: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Sky]:
    monkeypatch.setattr(sac_trainer, "SAVE", 4)
    made = Sky(monkeypatch, heads)
    yield made
    assert made.seen, "no head ever came"


def kill() -> None:
    raise Killed


@pytest.mark.parametrize(
    ("side", "happen", "how", "most"),
    [
        pytest.param("there", kill, {}, 120, id="the learner is killed"),
        pytest.param("here", drop, {"times": 20}, 120, id="our connection drops"),
        pytest.param("there", drop, {"times": 20}, 120, id="its connection drops"),
        pytest.param("here", fill, {"times": 20, "writes": 1}, 50, id="the disk is full for us"),
        pytest.param("there", fill, {"times": 20, "writes": 1}, 30, id="the disk is full for it"),
    ],
)
def test_it_ends_the_same(
    robot: Robot, sky: Sky, heads: list[str], side: str, happen: Any, how: Any, most: int
) -> None:
    """`most`: operations among which the moments are, fewer than there are."""
    root = robot.root
    luck = Random(f"{side} {happen.__name__}")
    struck = 0
    for number in range(TIMES):
        robot.root = root / str(number)
        robot.place = robot.root / "share"
        robot.updates.clear()
        sky.storm = (side, luck.randrange(most), happen, how)
        sky.struck = 0
        try:
            found = robot.learn()
        except UserError:  # as it begins: said in one line
            sky.storm = None
            found = robot.learn()
        assert found == heads[-1], number
        struck += bool(sky.struck)
    assert struck > 0.9 * TIMES
