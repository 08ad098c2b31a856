"""Algorithm 1 with SAC on an arm, shortened: a simulated one behind libfranka's protocol, its
images, and a person at the keys, who says what succeeded and takes over once."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recorded import record

pytest.importorskip("franky_sim")

from cell import SimulatedCell  # after the package that it needs

from irevla.algorithm import run_algorithm
from irevla.config import (
    AugmentConfig,
    Config,
    EvalConfig,
    HarvestConfig,
    ModelConfig,
    SFTConfig,
)
from irevla.data.episodes import EpisodeStore
from irevla.data.replay import LatentReplay, reopen
from irevla.envs.panda.tasks import REACH, SPECS, TURN
from irevla.envs.suite import load_suite
from irevla.envs.vector import VectorEnv
from irevla.errors import UserError
from irevla.models.policy import VLAPolicy, build_policy
from irevla.presets import find_preset
from irevla.robot.recorder import Recorder
from irevla.robot.teleop import DONE, READY
from irevla.rollout import played
from irevla.rollout.demonstrations import import_recordings
from irevla.runs.run import open_run
from irevla.stages import keeping
from irevla.types import weights_hash

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
TASK, EXPERT, UNSEEN = "pick-carrot", "pick-red-block", "pick-banana"
WAY = np.array(
    [0.4, 0.5, -0.5, 0.0, 0.0, 0.0, -0.9]
)  # what the policy does, whatever it sees: left, forth and down
STARVED = (
    "UDP receive",
    "s old",
    "a command failed",
    "has given no image for",
    "nobody watches the arm",
)  # what a machine without time for the simulator looks like


class Watching:
    """Looks at the simulator's hand: done where it is well to the left. Once, in RL, they lead it
    there."""

    def __init__(self, cell: SimulatedCell, online: Path) -> None:
        self._cell, self._online, self.helped = cell, online, 0
        self._answers = itertools.cycle([DONE, READY])  # also whether the arm may leave

    def __call__(self) -> str:
        try:
            left = self._cell.sim.hand()[1]
        except OSError:  # the arm is being replaced
            return ""
        if left > 0.06:
            return next(self._answers)
        if self._online.exists() and self.helped < 15 and left > 0.01:
            self.helped += 1
            return "a"
        return READY


def shown(folder: Path, config: Config) -> str:
    """Demonstrations of the expert task, as people would have recorded them."""
    shape = config.env.image_shape
    for number in range(4):
        recorder = Recorder(SPECS[EXPERT].task, folder / "recorded", cameras=config.env.cameras)
        for _ in range(6):
            recorder.add(
                np.full(shape, 40 * number, np.uint8),
                WAY.astype(np.float32),
                person=True,
                state=np.zeros(10, np.float32),
            )
        recorder.end(success=True)
    suite, root = load_suite("panda"), folder / "demonstrations"
    import_recordings(suite, [EXPERT], path=folder / "recorded", most=4, env=config.env, root=root)
    return str(root)


def starting(folder: Path, config: Config) -> str:
    torch.manual_seed(0)
    policy = build_policy(
        config.model,
        action_dim=7,
        image_size=config.env.image_size,
        state_dim=load_suite("panda").state_dim(config.env),
        cameras=config.env.cameras,
    )
    with torch.no_grad():
        policy.action_head.mlp[-1].weight.mul_(0.1)
        policy.action_head.mlp[-1].bias.copy_(torch.atanh(torch.from_numpy(WAY)))
    policy.save_pretrained(folder)
    return str(folder)


def shortened(folder: Path) -> Config:
    preset = find_preset("panda")
    config = replace(
        preset,
        threads=1,
        rounds=1,
        expert_tasks=(EXPERT,),
        env=replace(preset.env, horizon=25, rl_horizon=0),
        model=ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16),
        sac=replace(
            preset.sac, steps=150, demonstrations=3, attempts=10, batch=16, utd=2, critics=2,
            warmup=10, checkpoint_every=20,
        ),
        harvest=HarvestConfig(episodes=2, attempts=4, from_training=True),
        sl=SFTConfig(
            steps=4, batch=16, validate_every=4, warmup=1, augment=AugmentConfig(shift=0)
        ),
        eval=EvalConfig(episodes=1, interim=0, videos=False),
    )  # fmt: skip
    expert = replace(config.expert, dataset=shown(folder, config))
    return replace(config, expert=expert, from_checkpoint=starting(folder / "policy", config))


def replay(directory: Path, name: str) -> LatentReplay:
    return reopen(directory / "latents" / TASK / name)


def played_to_the_end(
    cell: SimulatedCell, directory: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The journal of a run, by its events."""

    class Freshly(VectorEnv):
        """With a new arm each time (see `SimulatedCell.replace_arm`)."""

        def __init__(self, *what: Any, **more: Any) -> None:
            cell.replace_arm()
            super().__init__(*what, **more)

    for module in (played, keeping):
        monkeypatch.setattr(module, "VectorEnv", Freshly)
    watching = Watching(cell, directory / "latents" / TASK / "online" / "episodes.jsonl")
    stops: list[str] = []
    with cell.person(watching):
        while len(stops) < 8:  # the same command goes on, once a person has released the arm
            try:
                with open_run(directory, config) as run:
                    run_algorithm(run)
                break
            except UserError as error:
                assert any(words in str(error) for words in STARVED), error
                stops.append(str(error))
                cell.stop_latch.release()
    print(f"{len(stops)} stops: {stops}")
    journal = map(json.loads, (directory / "journal.jsonl").read_text().splitlines())
    return {event["event"]: event for event in journal}


def test_algorithm_1_with_sac_on_an_arm(
    cell: SimulatedCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, directory = shortened(tmp_path), tmp_path / "run"
    done = played_to_the_end(cell, directory, config, monkeypatch)
    rows = done[f"evaluated sl:{TASK}"]["rows"]
    assert [row["task"] for row in rows] == [
        EXPERT,
        TASK,
        UNSEEN,
    ] and "evaluated baseline" not in done
    assert done[f"zero-shot:{TASK}"]["kept"] == 3
    demonstrations, online = replay(directory, "demonstrations"), replay(directory, "online")
    assert all(episode["success"] for episode in demonstrations.episodes) and len(online) >= 150
    shown_in_rl = [episode for episode in demonstrations.episodes if episode.get("person")]
    assert len(shown_in_rl) == 1, "they helped once, and it succeeded"
    assert done[f"rl:{TASK}"]["updates"] == int(config.sac.updates_per_decision * len(online))
    solved = {e["seed"] for e in demonstrations.episodes if not e.get("person")}
    assert solved <= {
        info.provenance.seed for info in EpisodeStore(directory / "online").episodes
    }, "D_RL has them too"
    actions = torch.cat([online.read(index).actions for index in range(len(online.episodes))])
    assert actions[:, 1].mean() > 0.05, "to the left, as the hand went"
    before = VLAPolicy.from_pretrained(config.from_checkpoint)
    after = VLAPolicy.from_pretrained(directory / "checkpoints" / f"rl-{TASK}")
    assert weights_hash(after.vlm) == weights_hash(before.vlm)
    assert weights_hash(after.action_head) != weights_hash(before.action_head)
    assert not cell.stop_latch.reason


def test_own_tasks_begin_with_a_dataset_of_others(
    cell: SimulatedCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = shortened(tmp_path)
    left = {"category": "expert", "instruction": "go to the left"}
    far = {"category": "rl", "instruction": "go far to the left"}
    cell.describe(tasks={"go-left": left, "go-far": far})
    way = np.tile(WAY * [REACH, REACH, REACH, TURN, TURN, TURN, 1], (6, 1)).astype(np.float32)
    images = np.full((6, 48, 64, 3), 90, np.uint8)
    record(tmp_path / "mine", [(images, way)] * 4, instruction="Go to the left.", fps=10)
    config = replace(
        short,
        method="sft",
        from_checkpoint="",
        expert_tasks=(), rl_tasks=(), unseen_tasks=(),
        env=replace(short.env, cameras=(), state=False),
        expert=replace(short.expert, dataset=str(tmp_path / "mine")),
        sft=replace(short.sl, steps=60, lr=1e-2, validate_every=60),
    )  # fmt: skip
    done = played_to_the_end(cell, tmp_path / "run", config, monkeypatch)
    rows = done["evaluated sft"]["rows"]
    assert [(row["task"], row["category"]) for row in rows] == [
        ("go-left", "expert"),
        ("go-far", "rl"),
    ]
    policy = VLAPolicy.from_pretrained(tmp_path / "run" / "checkpoints" / "sft")
    action = policy.act(np.full((64, 64, 3), 90, np.uint8), "go to the left")
    assert np.abs(action - WAY).max() < 0.2, "metres and radians are shares of a full action"
