"""SAC's learner elsewhere, on which each fault is inflicted fifty times at moments drawn from a
seed: the same result, and only whole heads on the way."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from irevla.errors import UserError
from irevla.stages import sac_elsewhere, sac_trainer
from irevla.stages.sac_elsewhere import Courier
from irevla.stages.sac_job import SACFolder
from irevla.storage.share import Share
from irevla.types import tensors_hash
from remote_sac import STAGE, Robot, robot, want
from storms import Storm, drop, fill, kill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

__all__ = ["robot", "want"]  # the fixtures

TIMES = 50


class Sky:
    """Who has a storm, of the run and of the learners that it starts."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.storm: tuple[str, int, Callable[[], None], dict[str, int]] | None = None
        self.struck = 0
        self.seen = 0  # heads that came
        for module, side in ((sac_elsewhere, "here"), (sac_trainer, "there")):
            patch.setattr(module, "Share", lambda place, side=side: self.share(place, side))
        exchange = Courier._exchange
        say_learnt = SACFolder.say_learnt
        said: set[str] = set()

        def saying(folder: SACFolder, learnt: Any, actor: Any) -> None:
            said.add(tensors_hash(actor))
            say_learnt(folder, learnt, actor)

        def watched(courier: Courier) -> bool:
            found = exchange(courier)
            for head in list(courier.heads):
                assert tensors_hash(head) in said, "half of it was installed"
                self.seen += 1
            return found

        patch.setattr(SACFolder, "say_learnt", saying)
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
def sky(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sky]:
    monkeypatch.setattr(sac_trainer, "SAVE", 4)
    made = Sky(monkeypatch)
    yield made
    assert made.seen, "no head ever came"


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
    robot: Robot, sky: Sky, want: str, side: str, happen: Any, how: Any, most: int
) -> None:
    """`most`: operations among which the moments are, fewer than there are.

    A learner that has only got a part of the episodes learns from that: as many updates, and no
    more than that can be said.
    """
    partly = (side, happen) == ("there", drop)
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
        kept = robot.run.checkpoints.newest(STAGE.folder)
        assert kept is not None and kept[1]["learner.json"]["updates"] == 12, number
        assert partly or found == want, number
        struck += bool(sky.struck)
    assert struck > 0.9 * TIMES
