"""What the head's -1 and 1 are, worked by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from irevla.config import ACTION_SCALES, ModelConfig
from irevla.errors import UserError
from irevla.models.action_scale import ActionScale
from irevla.models.policy import VLAPolicy, build_policy

MODEL = ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16)
SMALL = torch.linspace(-0.1, 0.3, 201)  # a step of 0.002: the 1st percentile is -0.096


def fitted(kind: str, *columns: Tensor, gripper: bool = False) -> ActionScale:
    scale = ActionScale(len(columns), kind)
    scale.fit(torch.stack(columns, 1), gripper=gripper)
    return scale


def test_min_max_is_what_was_shown() -> None:
    scale = fitted("min-max", SMALL, -2 * SMALL)
    torch.testing.assert_close(scale.low, torch.tensor([-0.1, -0.6]))
    torch.testing.assert_close(scale.high, torch.tensor([0.3, 0.2]))
    found = scale.native(torch.tensor([[-1.0, -1.0], [0.0, 0.5], [1.0, 1.0]]))
    torch.testing.assert_close(found, torch.tensor([[-0.1, -0.6], [0.1, 0.0], [0.3, 0.2]]))
    assert scale.outside(torch.stack([SMALL, -2 * SMALL], 1)).tolist() == [0, 0]


def test_quantiles_leave_one_percent_out_on_either_side_and_count_it() -> None:
    wild = SMALL.clone()
    wild[-1] = 1.0  # one stray action must not stretch the scale
    scale = fitted("quantiles", wild)
    torch.testing.assert_close(scale.low, torch.tensor([-0.096]))
    torch.testing.assert_close(scale.high, torch.tensor([0.296]))
    assert scale.outside(wild[:, None]).tolist() == [2 + 2]
    scaled = scale.scaled(wild[:, None])
    assert scaled[0] == -1 and scaled[-1] == 1 and scaled.abs().max() == 1


def test_mean_and_deviation_reach_three_deviations_and_never_beyond_the_suite() -> None:
    coin = torch.tensor([-0.1, 0.1]).repeat(50)
    sides = torch.tensor([-1.0, 1.0]).repeat(50)
    scale = fitted("mean-std", coin + 0.2, sides)
    torch.testing.assert_close(scale.low, torch.tensor([-0.1, -1.0]))
    torch.testing.assert_close(scale.high, torch.tensor([0.5, 1.0]))


@pytest.mark.parametrize("kind", ACTION_SCALES[1:])
def test_there_and_back(kind: str) -> None:
    torch.manual_seed(0)
    scale = fitted(kind, 0.2 * torch.rand(500), -torch.rand(500), torch.rand(500) - 0.5)
    actions = torch.rand(30, 9) * 2 - 1  # chunks of three
    native = scale.native(actions).view(90, 3)
    torch.testing.assert_close(scale.scaled(native).view(30, 9), actions)
    assert scale.outside(native).tolist() == [0, 0, 0] and native.abs().max() <= 1
    loud = scale.native(3 * actions)
    torch.testing.assert_close(loud, scale.native((3 * actions).clamp(-1, 1)))


@pytest.mark.parametrize("kind", ACTION_SCALES[1:])
def test_a_constant_dimension_stays_where_it_is(kind: str) -> None:
    scale = fitted(kind, torch.full((100,), 0.25), torch.linspace(-1, 1, 100))
    actions = torch.tensor([[-1.0, 0.0], [0.3, 0.0], [1.0, 0.0]])
    assert scale.native(actions)[:, 0].tolist() == [0.25] * 3
    known = torch.tensor([[0.25, 0.0], [0.75, 0.0]])
    assert scale.scaled(known)[:, 0].tolist() == [0, 0], "no gradient, no NaN"
    assert scale.outside(known).tolist() == [1, 0]


def test_an_angle_that_wraps_has_its_whole_turn() -> None:
    """Its values are at both ends: nothing is clipped, and neither end comes near the other."""
    generator = torch.Generator().manual_seed(0)
    turn = (torch.randn(2000, generator=generator) / 50 + 1.0 + 1) % 2 - 1  # about +-180 degrees
    for kind in ACTION_SCALES[1:]:
        scale = fitted(kind, turn)
        assert scale.outside(turn[:, None]).sum() <= 40
        back = scale.native(scale.scaled(turn[:, None]))
        assert (back - turn[:, None]).abs().max() < 0.01


def test_a_discrete_gripper_opens_and_closes_whatever_was_shown() -> None:
    scale = fitted("quantiles", SMALL, torch.full((201,), -1.0), gripper=True)
    assert scale.native(torch.tensor([[0.0, -1.0], [0.0, 1.0]]))[:, 1].tolist() == [-1, 1]


def test_whether_it_reaches_from_open_to_closed() -> None:
    assert fitted("min-max", SMALL, gripper=True).grips and ActionScale(1, "suite").grips
    assert not fitted("min-max", SMALL).grips


def test_the_suites_own_scale_changes_nothing() -> None:
    scale = fitted("suite", SMALL)
    actions = torch.randn(7, 1)
    assert scale.native(actions) is actions and scale.scaled(actions) is actions
    assert scale.outside(10 * actions).tolist() == [0] and not scale.state_dict()


def test_it_is_of_the_policys_files(tmp_path: Path) -> None:
    config = replace(MODEL, action_scale="quantiles", chunk=2, execute=2)
    policy = build_policy(config, action_dim=2, image_size=32).eval()
    before = policy.hash()
    policy.action_scale.fit(torch.stack([SMALL, -SMALL], 1), gripper=False)
    assert policy.hash() != before
    policy.save_pretrained(tmp_path / "policy")
    again = VLAPolicy.from_pretrained(tmp_path / "policy")
    assert torch.equal(again.action_scale.low, policy.action_scale.low)
    image = np.zeros((32, 32, 3), np.uint8)
    acted = again.act(image, "push")
    assert (acted >= np.array([-0.0961, -0.2961])).all()
    assert (acted <= np.array([0.2961, 0.0961])).all()
    plain = build_policy(MODEL, action_dim=2, image_size=32).files()
    assert "action_scale" not in plain["config.json"]["model"]
    assert not any("action_scale" in name for name in plain["model.safetensors"])


def test_an_unknown_scale_is_told() -> None:
    with pytest.raises(UserError, match=r"unknown model\.action_scale 'quantile'.*'quantiles'"):
        ModelConfig(action_scale="quantile")
