"""A supervised stage whose steps others take: the same result, whatever goes wrong on the way."""

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import Popen
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from irevla.compute import engine
from irevla.compute.ranks import ALONE
from irevla.config import ComputeConfig, RolloutsConfig
from irevla.data.mixture import Batch
from irevla.errors import UserError
from irevla.learners.sft import SFT as Learner
from irevla.models.policy import VLAPolicy
from irevla.rollout import fleet
from irevla.stages import elsewhere, trainer
from irevla.stages.job import Job, JobFolder, Progress
from irevla.storage import checkpoint
from irevla.storage.share import Damaged, Share
from irevla.tasks import SFT
from players import Players
from stage_two import CONFIG, STAGE, StageTwo


class Killed(BaseException):
    """As SIGKILL: nothing that the process would still do is done."""


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageTwo:
    made = StageTwo(tmp_path)
    monkeypatch.setenv("IREVLA_CACHE", str(tmp_path / "cache"))
    update = Learner.update

    def watched(self: Learner, batch: Batch) -> dict[str, float]:
        if made.killed_at == self.updates:
            raise Killed
        made.steps.append(self.updates)
        return update(self, batch)

    @contextmanager
    def started(
        settings: Sequence[str], module: str, job: Sequence[str], *, log: Path
    ) -> Iterator[Any]:
        assert module == trainer.__name__
        made.calls += 1
        log.write_text("")
        try:
            trainer.run(job)
        except Killed:
            pass
        except UserError as error:
            log.write_text(f"{engine.REFUSED}{error}\n")
        made.meanwhile()
        yield MagicMock(spec=Popen, poll=lambda: 0)

    @contextmanager
    def joined(device: str) -> Iterator[Any]:
        yield ALONE, torch.device(device)

    monkeypatch.setattr(Learner, "update", watched)
    monkeypatch.setattr(engine, "started", started)
    monkeypatch.setattr(trainer, "joined", joined)
    return made


@pytest.fixture(scope="module")
def want(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    """The policy and the curves that one process ends with."""
    here = StageTwo(tmp_path_factory.mktemp("inline"))
    return here.learn("inline").hash(), here.curves()


Want = tuple[str, list[dict[str, Any]]]


def test_it_ends_as_here(setup: StageTwo, want: Want) -> None:
    policy = setup.learn()
    assert (policy.hash(), setup.curves()) == want
    assert (setup.calls, setup.steps) == (1, list(range(8)))
    assert setup.checkpoints() == ["sl-left-disc-new"]
    kept = VLAPolicy.from_pretrained(setup.out / "checkpoints" / "sl-left-disc-new")
    assert kept.hash() == want[0]
    assert not (setup.place / "jobs").exists() or not list((setup.place / "jobs").iterdir())


def test_each_stage_has_a_log_of_its_own(setup: StageTwo) -> None:
    setup.learn()
    assert [log.name for log in (setup.out / "logs").iterdir()] == ["sl-left-disc-new.log"]


def test_chunks_of_scaled_actions_end_as_here(setup: StageTwo, tmp_path: Path) -> None:
    model = replace(CONFIG.model, chunk=3, action_scale="min-max")
    here = StageTwo(tmp_path / "here", replace(CONFIG, model=model)).learn("inline")
    setup.config = replace(CONFIG, model=model)
    there = setup.learn()
    assert there.hash() == here.hash() and there.config == here.config
    assert there.action_scale.low.max() < 0 < there.action_scale.high.min() < 1


def test_a_checkpoint_holds_what_one_of_here_holds(setup: StageTwo, tmp_path: Path) -> None:
    files = []
    for backend in ("inline", "torchrun"):
        each = StageTwo(tmp_path / backend)
        setup.killed_at = 4
        with pytest.raises(Killed if backend == "inline" else UserError):
            _with(setup, each).learn(backend)
        folder = each.out / "checkpoints" / "sl-left-disc-new-000004"
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert files[0] == files[1]


def _with(setup: StageTwo, other: StageTwo) -> StageTwo:
    """The other folders, with the watched processes of `setup`."""
    for name in ("root", "out", "place", "expert", "online"):
        setattr(setup, name, getattr(other, name))
    return setup


# --- Faults


@pytest.mark.parametrize("step", [1, 2, 7])
def test_a_trainer_that_is_killed_is_said_in_one_line_and_the_same_command_goes_on(
    setup: StageTwo, want: Want, step: int
) -> None:
    setup.killed_at = step
    known = step // 2 * 2
    with pytest.raises(UserError, match=f"ended after {known} steps .* the same command goes on"):
        setup.learn()
    setup.killed_at = -1
    setup.steps.clear()
    assert setup.learn().hash() == want[0]
    assert setup.steps == list(range(known, 8))
    assert setup.curves() == want[1]


@pytest.mark.parametrize(("first", "then"), [("torchrun", "inline"), ("inline", "torchrun")])
def test_it_goes_on_here_what_was_begun_there_and_the_other_way_round(
    setup: StageTwo, want: Want, first: str, then: str
) -> None:
    setup.killed_at = 5
    with pytest.raises(Killed if first == "inline" else UserError):
        setup.learn(first)
    setup.killed_at = -1
    setup.steps.clear()
    assert setup.learn(then).hash() == want[0]
    assert setup.steps == [4, 5, 6, 7]
    assert setup.curves() == want[1]


def test_it_goes_on_with_another_number_of_processes(setup: StageTwo, want: Want) -> None:
    setup.killed_at = 5
    with pytest.raises(UserError):
        setup.learn(processes=2)
    setup.killed_at = -1
    setup.steps.clear()
    assert setup.learn(processes=3).hash() == want[0]
    assert setup.steps == [4, 5, 6, 7]


@pytest.mark.parametrize("number", [0, 3, 7, 9])
def test_a_connection_that_drops_on_the_way_there_costs_what_was_under_way(
    setup: StageTwo, want: Want, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    sent: list[str] = []
    with monkeypatch.context() as patch:
        _fail_writes(patch, sent, after=number, error=ConnectionResetError(104, "reset by peer"))
        with pytest.raises(UserError, match="reset by peer"):
            setup.learn()
    assert len(sent) == number
    assert setup.calls == 0
    again: list[str] = []
    with monkeypatch.context() as patch:
        _fail_writes(patch, again, after=10_000, error=OSError())
        assert setup.learn().hash() == want[0]
    episodes = [name for name in sent if name.startswith("episodes")]
    assert not set(episodes) & set(again)


def _fail_writes(patch: pytest.MonkeyPatch, sent: list[str], *, after: int, error: OSError) -> None:
    """Let only so many writes to a share succeed."""
    write = Share.write

    def failing(self: Share, name: str, content: bytes) -> None:
        with self._told(name):
            if len(sent) >= after:
                raise error
        sent.append(name)
        write(self, name, content)

    patch.setattr(Share, "write", failing)


@pytest.mark.parametrize("later", [0, 2])
def test_a_disk_that_is_full_there_is_said_and_the_job_goes_on_once_there_is_room(
    setup: StageTwo, want: Want, monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    train = trainer.train

    def with_full_disk(*args: Any, **options: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            _fail_writes(patch, [], after=later, error=full)
            train(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train", with_full_disk)
        with pytest.raises(UserError, match=r"No space left on device; make room and give the sa"):
            setup.learn()
    assert setup.learn().hash() == want[0]
    assert setup.curves() == want[1]


def test_a_result_that_arrives_twice_is_one(setup: StageTwo, want: Want) -> None:
    """The run dies after it took the result, before it knew that the stage is done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("irevla.stages.supervised.complete", _kill)
        with pytest.raises(Killed):
            setup.learn()
    assert setup.learn().hash() == want[0]
    assert setup.calls == 1
    assert setup.curves() == want[1]
    assert setup.learn().hash() == want[0]
    assert setup.calls == 1


def _kill(*args: Any, **options: Any) -> None:
    raise Killed


def test_what_another_run_of_the_same_has_computed_is_taken(
    setup: StageTwo, want: Want, tmp_path: Path
) -> None:
    """The share has the job, done; its submitter died before it took the result."""
    setup.meanwhile = _kill
    with pytest.raises(Killed):
        setup.learn()
    setup.meanwhile = lambda: None
    setup.out = tmp_path / "again"
    assert setup.learn().hash() == want[0]
    assert setup.calls == 1
    assert setup.curves() == want[1]


def test_the_wrong_bytes_that_come_back_are_not_installed(setup: StageTwo, want: Want) -> None:
    def spoil() -> None:
        progress = json.loads((setup.job / "progress.json").read_text())
        path = setup.job / "files" / progress["files"]["model.safetensors"]
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    setup.meanwhile = spoil
    with pytest.raises(UserError, match="was not what its name says, and is deleted; give the sam"):
        setup.learn()
    assert setup.checkpoints() == []
    setup.meanwhile = lambda: None
    assert setup.learn().hash() == want[0]
    assert setup.curves() == want[1]


def test_what_is_damaged_of_the_checkpoint_that_the_run_has_is_given_again(
    setup: StageTwo, want: Want
) -> None:
    """The trainer that begins from it says so once; the command after that mends it."""
    setup.killed_at = 5
    with pytest.raises(UserError, match="ended after 4 steps"):
        setup.learn()
    setup.killed_at = -1
    progress = json.loads((setup.job / "progress.json").read_text())
    path = setup.job / "files" / progress["files"]["optimizer.safetensors"]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match="was not what its name says, and is deleted"):
        setup.learn()
    setup.steps.clear()
    assert setup.learn().hash() == want[0]
    assert setup.steps == [4, 5, 6, 7]


def test_a_policy_whose_optimizer_does_not_fit_is_not_installed(
    setup: StageTwo, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: list[str] = []
    load_files = VLAPolicy.load_files

    def watched(self: VLAPolicy, files: Any) -> None:
        load_files(self, files)
        installed.append(self.hash())

    def swap() -> None:
        path = setup.job / "progress.json"
        progress = json.loads(path.read_text())
        data = checkpoint.encode("learner.json", {"updates": 7, "skipped": 0})
        share = Share(str(setup.place))
        progress["files"]["learner.json"] = share.put(f"jobs/{setup.job.name}/files", data)
        path.write_text(json.dumps(progress))
        monkeypatch.setattr(VLAPolicy, "load_files", watched)

    setup.meanwhile = swap
    with pytest.raises(UserError, match=r"its optimizer is damaged .* it is not of step 8"):
        setup.learn()
    assert installed == []


def test_weights_of_another_model_that_come_back_are_not_installed(
    setup: StageTwo, want: Want
) -> None:
    def swap(name: str, content: Any) -> None:
        path = setup.job / "progress.json"
        progress = json.loads(path.read_text())
        share = Share(str(setup.place))
        data = checkpoint.encode(name, content)
        progress["files"][name] = share.put(f"jobs/{setup.job.name}/files", data)
        path.write_text(json.dumps(progress))

    others = {
        "model.safetensors": {"weight": torch.zeros(3)},
        "learner.json": {"updates": 7, "skipped": 0},
        "optimizer.safetensors": {"x.exp_avg": torch.zeros(3)},
    }
    for name, content in others.items():
        setup.meanwhile = lambda name=name, content=content: swap(name, content)
        with pytest.raises(UserError, match="came back of sl:left-disc-new is damaged"):
            setup.learn()
        assert setup.checkpoints() == []
    setup.meanwhile = lambda: None
    assert setup.learn().hash() == want[0]


@pytest.mark.parametrize(
    "progress",
    [
        {"updates": 8, "files": {"../../model.safetensors": "0" * 64}, "rows": []},
        {"updates": 8, "files": {"model.pickle": "0" * 64}, "rows": []},
        {"updates": 8, "files": {"model.safetensors": "../job.json"}, "rows": []},
        {"updates": 8, "files": {}, "rows": [{"step": "eight"}]},
        {"updates": 8, "files": {}, "rows": [{"loss": 1.0}]},
        {"updates": 8, "files": {}, "rows": [{"step": 2, "stage": 1}]},
        {"updates": "8", "files": {}, "rows": []},
        {"updates": 8, "files": []},
        [],
    ],
)
def test_a_made_up_progress_is_refused(progress: Any) -> None:
    with pytest.raises(Damaged, match="says of its progress is damaged"):
        Progress.read(progress)
    known = Progress(8, {"model.safetensors": "0" * 64}, [{"step": 2, "loss": 0.5}])
    assert Progress.read(json.loads(json.dumps(known.to_json()))) == known


def test_a_progress_without_files_is_not_installed(setup: StageTwo, want: Want) -> None:
    setup.killed_at = 3
    made_up = {"updates": 8, "files": {}, "rows": []}
    setup.meanwhile = lambda: _write(setup.job / "progress.json", made_up)
    with pytest.raises(UserError, match="damaged"):
        setup.learn()
    assert setup.checkpoints() == []
    setup.killed_at = -1
    setup.meanwhile = lambda: None
    assert setup.learn().hash() == want[0]


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def test_another_job_of_that_name_is_refused(setup: StageTwo) -> None:
    setup.meanwhile = _kill
    with pytest.raises(Killed):
        setup.learn()
    path = setup.job / "job.json"
    path.write_text(path.read_text().replace('"batch": 6', '"batch": 5'))
    with pytest.raises(Damaged, match=r"is another; give the same command again"):
        _ = JobFolder(Share(str(setup.place)), setup.job.name, Job.of_text).job
    with pytest.raises(Damaged, match=r"is not in .*: let compute.share name a place that all mac"):
        _ = JobFolder(Share(str(setup.root / "other")), setup.job.name, Job.of_text).job


def test_what_is_wrong_there_is_said_here(setup: StageTwo, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise UserError("there is no such base model here: download it")

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train", refuse)
        with pytest.raises(UserError, match=r"^there is no such base model here: download it$"):
            setup.learn()
    setup.learn()


# --- What a job is


def test_a_job_is_data_without_paths_and_the_same_whoever_computes_it(setup: StageTwo) -> None:
    setup.killed_at = 3
    names = []
    for processes in (2, 3):
        with pytest.raises(UserError):
            setup.learn(processes=processes)
        names.append(setup.job.name)
    assert names[0] == names[1]
    text = (setup.job / "job.json").read_text()
    assert str(setup.root) not in text
    assert all(path.suffix in ("", ".json") for path in setup.place.rglob("*"))


@pytest.mark.parametrize("backend", ["ray", "torchrun"])
def test_actors_that_rest_leave_a_cluster_before_it_computes(
    setup: StageTwo, want: Want, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "RayActors", Players)
    monkeypatch.setattr(Players, "made", [])
    left = []
    setup.meanwhile = lambda: left.extend(each.closed for each in Players.made)
    actors = RolloutsConfig(backend="ray", actors=2)
    with fleet.fleet_outlives_stages():
        with fleet.hired(actors, workers=1):
            pass
        assert setup.learn(backend).hash() == want[0]
        with fleet.hired(actors, workers=1):  # whoever acts next
            assert [each.closed for each in Players.made] == [*filter(None, left), False]
    assert left == [backend == "ray"]
    assert all(each.closed for each in Players.made)


def test_which_processes_are_asked_for() -> None:
    there = ComputeConfig(stage2="torchrun", processes=3)
    config = replace(CONFIG, compute=there)
    assert elsewhere.engine_of(config, SFT) == "inline"
    assert elsewhere.engine_of(config, STAGE) == "torchrun"
    assert elsewhere.engine_settings(config, STAGE) == ["irevla.compute.torchrun", "3"]
    cluster = ComputeConfig(stage0="ray", processes=2, ray_address="a:1", ray_resource="remote")
    config = replace(CONFIG, compute=cluster)
    settings = ["irevla.compute.ray_cluster", "2", "a:1", "remote", "cpu"]
    assert elsewhere.engine_settings(config, SFT) == settings


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"stage2": "rya"}, "unknown engine 'rya'; did you mean 'ray'"),
        ({"processes": 2}, "compute.shard are for stages 0 and 2"),
        ({"shard": True}, "compute.shard are for stages 0 and 2"),
        ({"share": "/mnt"}, "compute.share is for torchrun and ray"),
        ({"stage1": "torchrun", "processes": 2}, "compute.shard are for stages 0 and 2"),
        ({"stage1": "torchrun", "shard": True}, "compute.shard are for stages 0 and 2"),
        ({"stage2": "torchrun", "ray_address": "a:1"}, "ray_resource are for ray"),
        ({"stage2": "torchrun", "processes": 0}, "compute.processes must be positive"),
        ({"stage2": "ray", "share": "s3://me:secret@bucket"}, "no user, password or query"),
        ({"stage2": "ray", "share": "sftp://me:secret@host/x"}, "no user, password or query"),
        ({"stage2": "ray", "share": "https://token@host/x"}, "no user, password or query"),
        ({"stage2": "ray", "share": "zip://x::ftp://me:secret@host/y"}, "no user, password or"),
        ({"stage2": "ray", "share": "abfs://box/x?sas_token=secret"}, "no user, password or query"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        ComputeConfig(**settings)


@pytest.mark.parametrize(
    "share",
    ["/mnt/a@b?c", "s3://box/x@y", "abfs://box@account.dfs.core.windows.net/x", "sftp://me@host/x"],
)
def test_names_in_the_place_of_a_share_are_no_secrets(share: str) -> None:
    assert ComputeConfig(stage2="ray", share=share).share == share


def test_no_process_is_without_samples() -> None:
    compute = ComputeConfig(stage2="torchrun", processes=7)
    with pytest.raises(UserError, match="7 processes cannot share batches of 6"):
        replace(CONFIG, compute=compute)
