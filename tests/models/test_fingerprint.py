"""A saved policy is refused where it acts otherwise than it did when it was saved."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrained import adapted, register
from vlm_families import MODELS, Folders, policy_of

from irevla.config import LoRAConfig, ModelConfig
from irevla.errors import UserError
from irevla.evaluation.model_card import export
from irevla.models import fingerprint as prints
from irevla.models.fingerprint import Fingerprint, check_same, fixed_observation, without_action
from irevla.models.policy import VLAPolicy, build_policy
from irevla.models.vlm.tiny import TinyVLM
from irevla.stages.learning import PolicyFiles
from irevla.storage import checkpoint
from irevla.types import Features, Observation


def small(vlm: str = "tiny", **settings: Any) -> VLAPolicy:
    return build_policy(ModelConfig(vlm=vlm, **settings), action_dim=3, image_size=64)


def norms(policy: VLAPolicy) -> list[Any]:
    """All layers that divide by a spread, whatever the library calls its epsilon."""
    names = ("eps", "variance_epsilon")
    return [each for each in policy.vlm.modules() if any(hasattr(each, name) for name in names)]


def other_epsilon(vlm: Any) -> None:
    for norm in vlm.modules():
        for name in ("eps", "variance_epsilon"):
            if hasattr(norm, name):
                setattr(norm, name, 1e-4)


def patched(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]) -> None:
    """From now on every VLM is made otherwise, as another version of a library would make it."""
    from irevla.models import policy

    build = policy.build_vlm

    def otherwise(*args: Any, **kwargs: Any) -> Any:
        vlm, config = build(*args, **kwargs)
        change(vlm)
        return vlm, config

    monkeypatch.setattr(policy, "build_vlm", otherwise)


# --- what it is


def test_the_observation_is_the_same_for_ever() -> None:
    seen = fixed_observation(32)
    assert seen.images.shape == (1, 32, 32, 3) and seen.images.dtype == torch.uint8
    assert seen.images.flatten()[:4].tolist() == [160, 199, 17, 121]
    assert seen.instructions == ("open the drawer",)


def test_it_is_a_few_plain_numbers_in_config_json(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path / "policy")
    kept = json.loads((tmp_path / "policy" / "config.json").read_text())["fingerprint"]
    assert len(kept["latents"]) == 8 and len(kept["action"]) == 3
    assert kept["computed"] == "cpu float32"
    assert kept["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert "transformers" in kept["versions"]
    assert Fingerprint.read(kept).to_json() == kept


def test_it_costs_one_forward_and_leaves_the_policy_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = small()
    policy.train()
    policy.vlm.eval()
    flags = [module.training for module in policy.modules()]
    calls = [0]
    encode = TinyVLM.encode

    def counted(self: TinyVLM, seen: Observation) -> Features:
        calls[0] += 1
        assert not any(module.training for module in policy.modules())
        return encode(self, seen)

    monkeypatch.setattr(TinyVLM, "encode", counted)
    state, hashed = torch.get_rng_state(), policy.hash()
    files = policy.files()
    assert calls == [1] and [module.training for module in policy.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state) and policy.hash() == hashed
    policy.load_files(files)
    assert calls == [1], "a run that goes on compares nothing"


def test_threads_make_no_difference_that_counts() -> None:
    policy = small("tiny-random", width=128, layers=4)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = policy.fingerprint()
    finally:
        torch.set_num_threads(before)
    check_same(two, policy.fingerprint())


# --- what it refuses


def test_a_policy_that_computes_otherwise_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = small()
    policy.save_pretrained(tmp_path / "policy")
    assert VLAPolicy.from_pretrained(tmp_path / "policy").hash() == policy.hash()

    patched(monkeypatch, other_epsilon)
    monkeypatch.setattr(prints, "version", lambda name: {"torch": "9.9"}.get(name, "8.8"))
    with pytest.raises(UserError) as error:
        VLAPolicy.from_pretrained(tmp_path / "policy")
    said = str(error.value)
    assert "\n" not in said
    assert re.search(r"its latents went 0\.00\d+ away from what was saved \(0\.0001", said)
    assert f"Then: torch {torch.__version__.split('+')[0]}" in said.replace("+cpu", "")
    assert "now: torch 9.9, transformers 8.8, cpu float32" in said
    assert "accept_difference=True" in said


def test_who_accepts_it_may_save_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small()
    policy.save_pretrained(tmp_path / "policy")
    patched(monkeypatch, other_epsilon)
    taken = VLAPolicy.from_pretrained(tmp_path / "policy", accept_difference=True)
    assert taken.hash() == policy.hash()
    taken.save_pretrained(tmp_path / "policy")
    assert VLAPolicy.from_pretrained(tmp_path / "policy").hash() == policy.hash()


@pytest.mark.parametrize("family", MODELS)
def test_every_family_comes_back_and_a_changed_one_is_refused(
    family: str, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy_of(folders(family)).save_pretrained(tmp_path / "policy")
    assert norms(VLAPolicy.from_pretrained(tmp_path / "policy"))
    patched(monkeypatch, other_epsilon)
    with pytest.raises(UserError, match="acts otherwise here"):
        VLAPolicy.from_pretrained(tmp_path / "policy")


def test_bfloat16_is_compared_coarsely(folders: Folders, tmp_path: Path) -> None:
    policy = policy_of(folders("llava"), dtype="bfloat16")
    coarse, fine = policy.fingerprint(), policy_of(folders("llava")).fingerprint()
    assert coarse.computed == "cpu bfloat16" and fine.computed == "cpu float32"
    policy.save_pretrained(tmp_path / "policy")
    VLAPolicy.from_pretrained(tmp_path / "policy")
    latents = replace(coarse, action=())
    check_same(latents, fine)
    with pytest.raises(UserError, match=r"0\.0001 is allowed"):
        check_same(replace(latents, computed="cpu float32"), fine)


def fake(*latents: float, action: tuple[float, ...] = (0.5,)) -> Fingerprint:
    return Fingerprint(latents, action, "cpu float32", {"torch": "1"})


def test_the_largest_difference_is_named() -> None:
    check_same(fake(3.0, -4.0), fake(3.0, -4.0))
    with pytest.raises(UserError, match=r"its mean action went 0\.25 away"):
        check_same(fake(3.0, -4.0), fake(3.0, -4.0, action=(0.25,)))
    with pytest.raises(UserError, match=r"its latents went 0\.28 away"):
        check_same(fake(3.0, -4.0), fake(3.0, -5.0, action=(0.25,)))
    with pytest.raises(UserError, match=r"mean action went inf away"):
        check_same(fake(3.0), fake(3.0, action=(0.5, 0.5)))
    with pytest.raises(UserError, match=r"transformers not there, cpu"):
        check_same(fake(3.0), fake(4.0))


def test_not_a_number_is_no_excuse() -> None:
    nan = math.nan
    check_same(fake(nan, 1.0), fake(nan, 1.0))
    check_same(fake(math.inf, 1.0), fake(math.inf, 1.0))
    for then, now in ((fake(1.0, 1.0), fake(nan, 1.0)), (fake(1.0), fake(1.0, action=(nan,)))):
        with pytest.raises(UserError, match="went nan away"):
            check_same(then, now)


@pytest.mark.parametrize("damage", [3, {}, {"latents": ["a"]}, {"action": None}, {"versions": []}])
def test_a_damaged_one_is_the_users_error(damage: Any, tmp_path: Path) -> None:
    files = small().files()
    kept = files["config.json"]["fingerprint"]
    broken = {**kept, **damage} if isinstance(damage, dict) and damage else damage
    described = {**files["config.json"], "fingerprint": broken}
    checkpoint.save(tmp_path / "policy", {**files, "config.json": described})
    with pytest.raises(UserError, match="its fingerprint is damaged"):
        VLAPolicy.from_pretrained(tmp_path / "policy")


# --- where it is stale, or not there


def test_without_a_fingerprint_it_loads(tmp_path: Path) -> None:
    """As policies of version 0.1 and of earlier days of 0.2."""
    policy = small()
    files = policy.files()
    del files["config.json"]["fingerprint"]
    checkpoint.save(tmp_path / "old", files)
    assert VLAPolicy.from_pretrained(tmp_path / "old").hash() == policy.hash()
    assert without_action(files["config.json"]) == files["config.json"]


def test_a_learner_without_the_vlm_keeps_what_stays_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SAC's learner in a process of its own: the head has changed, config.json has not."""
    policy = small()
    saved = policy.files()
    learner = PolicyFiles(saved, small().action_head)
    with torch.no_grad():
        for parameter in learner._head.parameters():
            parameter.add_(0.1)
    files = learner.files()
    kept = files["config.json"]["fingerprint"]
    assert kept["action"] == [] and kept["latents"] == policy.fingerprint().to_json()["latents"]
    assert saved["config.json"]["fingerprint"]["action"], "what it was given is left alone"
    checkpoint.save(tmp_path / "rl", files)
    assert VLAPolicy.from_pretrained(tmp_path / "rl").hash() != policy.hash()
    patched(monkeypatch, other_epsilon)
    with pytest.raises(UserError, match="on one fixed picture its latents went"):
        VLAPolicy.from_pretrained(tmp_path / "rl")


def test_an_exported_policy_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    policy = adapted()
    policy.save_pretrained(tmp_path / "policy")
    files, _ = export(tmp_path / "policy", name="me/policy")
    assert files["config.json"]["fingerprint"] == policy.fingerprint().to_json()


def test_a_lora_that_is_applied_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = small("tiny-random", width=32, layers=1, head_groups=4, lora=LoRAConfig(rank=2))
    with torch.no_grad():
        for parameter in policy.trainable("all"):
            parameter.add_(0.1)
    policy.save_pretrained(tmp_path / "policy")

    def twice(self: VLAPolicy, *args: Any) -> Any:
        for module in self.vlm.modules():
            if hasattr(module, "lora_A"):
                module.scaling["default"] *= 2
        return eval_(self, *args)

    eval_ = VLAPolicy.eval
    monkeypatch.setattr(VLAPolicy, "eval", twice)
    with pytest.raises(UserError, match="acts otherwise here"):
        VLAPolicy.from_pretrained(tmp_path / "policy")
