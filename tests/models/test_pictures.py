from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from irevla.errors import UserError
from irevla.models.vlm.pictures import Pixels, sample

CLIP = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}}
TILES = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 28}}


def processor(name: str, **settings: Any) -> Any:
    return getattr(transformers, f"{name}ImageProcessorPil")(**settings)


def both(
    library: Any, images: np.ndarray
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What we make of pictures on the device, and what the library makes of them one by one."""
    ours = Pixels(library, images.shape[1])(torch.from_numpy(images), torch.float32)
    rows = [library(images=[Image.fromarray(image)], return_tensors="pt") for image in images]
    return ours, {name: torch.cat([row[name] for row in rows]) for name in ours}


def noise(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("library", "side"),
    [
        (processor("Blip", size={"height": 28, "width": 28}), 28),
        (processor("Siglip", size={"height": 28, "width": 28}), 28),
        (processor("CLIP", **CLIP), 32),
        (processor("Qwen2VL"), 56),
        (processor("Siglip", do_resize=False, do_normalize=False), 20),
        (processor("Siglip", do_resize=False, do_rescale=False), 20),
    ],
)
def test_pictures_that_need_no_resizing_are_the_librarys_own(library: Any, side: int) -> None:
    ours, theirs = both(library, noise(side))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=2e-5, rtol=1e-6)


@pytest.mark.parametrize("side", [20, 64, 100])
@pytest.mark.parametrize(
    "library",
    [
        processor("Blip", size={"height": 28, "width": 28}),
        processor("CLIP", **CLIP),
        processor("Qwen2VL"),
        processor("Idefics3", **TILES),
        processor("SmolVLM", **TILES),
    ],
    ids=lambda library: type(library).__name__,
)
def test_resized_pictures_are_within_a_step_of_the_librarys(library: Any, side: int) -> None:
    picture = sample(
        side
    )  # not noise: a picture that goes through two Lanczos filters is clipped between them
    ours, theirs = both(library, np.stack([picture, picture[::-1], 255 - picture]))
    step = 1 / 255 / np.mean(library.image_std)
    difference = (ours["pixel_values"] - theirs["pixel_values"]).abs() / step
    assert difference.mean() < 0.5 and difference.quantile(0.99) < 4
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if name != "pixel_values")


def test_tiling_is_switched_off() -> None:
    library = processor("Idefics3", **TILES)
    assert Pixels(library, 64)(torch.from_numpy(noise(64)), torch.float32)[
        "pixel_values"
    ].shape == (3, 1, 3, 28, 28)


def test_buffers_belong_to_no_checkpoint() -> None:
    pixels = Pixels(processor("Idefics3", **TILES), 64)
    assert len(list(pixels.buffers())) == 4 and not pixels.state_dict()


def test_autocast_costs_no_precision() -> None:
    pixels, images = Pixels(processor("CLIP", **CLIP), 64), torch.from_numpy(sample(64))[None]
    exact = pixels(images, torch.float32)["pixel_values"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pixels(images, torch.float32)["pixel_values"], exact)


@pytest.mark.parametrize(
    "library",
    [
        processor("LlavaNext", **CLIP),  # tiles
        processor("Pix2Struct"),  # makes no pixels, but patches with their places
        processor("DPT", size={"height": 28, "width": 28}, do_pad=True, size_divisor=16),  # pads
    ],
    ids=lambda library: type(library).__name__,
)
def test_a_way_that_we_do_not_know_is_the_users_error(library: Any) -> None:
    with pytest.raises(UserError, match="in a way that irevla does not know"):
        Pixels(library, 64)
