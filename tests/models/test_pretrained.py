import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from irevla.cli import main
from irevla.config import LoRAConfig, ModelConfig
from irevla.errors import UserError
from irevla.models.build import build_policy
from irevla.models.vlm.pretrained import SHIPPED, load_tiny, save_tiny
from irevla.models.vlm.tiny import TinyVLM
from irevla.types import weights_hash


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_tiny(path, TinyVLM(width=32, layers=1, image_size=32), layers=1, image_size=32)
    return path


def test_saved_and_loaded_it_answers_the_same(tmp_path: Path) -> None:
    model, images = (
        TinyVLM(width=32, layers=3, image_size=32),
        torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8),
    )
    save_tiny(tmp_path / "a.safetensors", model, layers=3, image_size=32)
    loaded, size = load_tiny(tmp_path / "a.safetensors")
    assert size == 32 and weights_hash(loaded) == weights_hash(model)
    assert loaded.generate(images, ["what?"] * 2, max_tokens=5) == model.generate(
        images, ["what?"] * 2, max_tokens=5
    )


def test_the_shipped_weights_are_small_and_speak() -> None:
    model, size = load_tiny()
    assert size == 64 and SHIPPED.stat().st_size < 20e6
    answer = model.generate(
        torch.zeros(1, 64, 64, 3, dtype=torch.uint8), ["how high is the gripper?"]
    )[0]
    assert answer.endswith("cm")  # it knows at least what is asked for


def test_tiny_starts_from_the_shipped_weights_and_tiny_random_does_not() -> None:
    shipped, _ = load_tiny()
    shipped.take_off_output_layer()
    policy = build_policy(ModelConfig(vlm="tiny"), action_dim=4, image_size=64)
    other = build_policy(ModelConfig(vlm="tiny-random"), action_dim=4, image_size=64)
    assert weights_hash(policy.vlm) == weights_hash(shipped) != weights_hash(other.vlm)
    names = [
        {name: value.shape for name, value in vla.state_dict().items()} for vla in (policy, other)
    ]
    assert names[0] == names[1]


def test_lora_on_tiny_trains_the_tower_alone_and_changes_nothing_at_first() -> None:
    plain = build_policy(ModelConfig(vlm="tiny"), action_dim=4, image_size=64)
    adapted = build_policy(
        ModelConfig(vlm="tiny", lora=LoRAConfig(rank=4)), action_dim=4, image_size=64
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    texts = ["open the drawer", "close the door"]
    torch.testing.assert_close(
        adapted.encode(images, texts).tokens, plain.encode(images, texts).tokens
    )
    adapted.trainable("all")
    trained = {
        name.split(".")[1]
        for name, p in adapted.vlm.named_parameters(prefix="vlm")
        if p.requires_grad
    }
    assert trained == {"tower"}


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (ModelConfig(vlm="tiny"), 32, "reads pictures of 64 pixels, not 32"),
        (ModelConfig(vlm="tiny", width=64), 64, "leave model.width"),
        (ModelConfig(vlm="tiny", layers=3), 64, "leave model.width and model.layers"),
    ],
)
def test_sizes_that_the_weights_do_not_have_are_the_users_error(
    config: ModelConfig, size: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build_policy(config, action_dim=4, image_size=size)


def test_files_that_are_not_these_weights(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        load_tiny(tmp_path / "nowhere.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="another model's"):
        load_tiny(tmp_path / "other.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        load_tiny(weights)


def test_ask(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "a picture.png"
    Image.new("RGBA", (100, 60), (200, 30, 30, 255)).save(picture)
    assert main(["ask", str(picture), "what color is it?", "--model", str(weights)]) == 0
    model, _ = load_tiny(weights)
    red = torch.tensor([200, 30, 30], dtype=torch.uint8).expand(1, 32, 32, 3)
    assert capsys.readouterr().out == model.generate(red, ["what color is it?"])[0] + "\n"


def test_ask_says_what_is_wrong(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, good = tmp_path / "notes.txt", tmp_path / "good.png"
    broken.write_text("not a picture")
    Image.new("RGB", (8, 8)).save(good)
    shutil.copy(good, tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:40])
    cases = {
        "there is no file": [str(tmp_path / "no.png"), "what?"],
        "not a picture": [str(broken), "what?"],
        "cut.png is not a picture": [str(tmp_path / "cut.png"), "what?"],
        "shorten": [str(good), "red " * 200, "--model", str(weights)],
        "tiny.safetensors": [str(good), "what?", "--model", str(tmp_path / "none.safetensors")],
    }
    for message, arguments in cases.items():
        assert main(["ask", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
