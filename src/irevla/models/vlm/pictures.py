"""Pictures as a pretrained VLM wants them, made in a batch on the device: a library's image
processor takes them one by one through Pillow, far too slowly for RL.

All pictures are squares of one size, so that any chain of resizing and cropping is one matrix for
rows and columns alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from irevla.errors import UserError

GRID = "image_grid_thw"  # where it is, pictures are lists of patches
# largest mean difference from the library's own pictures, in steps of their values (0..255)
TOLERANCE = 0.5


@dataclass(frozen=True)
class Recipe:
    """What happens to a picture, in this order."""

    sides: tuple[int, ...]  # the sides in pixels that it is resized to, one after the other
    filter: int  # Pillow's number of the resizing filter
    crop: int | None  # side of the square that is then cut out of its middle
    scale: float  # what its values (0..255) are multiplied by
    mean: tuple[float, ...]  # what is then taken off each channel
    std: tuple[float, ...]  # what each channel is then divided by


class Pictures(nn.Module):
    """A recipe, for pictures of `image_size` pixels. Its buffers follow from the recipe and belong
    to no checkpoint."""

    matrix: Tensor | None
    mean: Tensor
    std: Tensor

    def __init__(self, recipe: Recipe, *, image_size: int) -> None:
        super().__init__()
        matrix = geometry(recipe, image_size)
        still = np.array_equal(matrix, np.eye(image_size))
        self.scale = recipe.scale
        self.register_buffer(
            "matrix", None if still else torch.from_numpy(matrix), persistent=False
        )
        self.register_buffer("mean", torch.tensor(recipe.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(recipe.std)[:, None, None], persistent=False)

    def forward(self, images: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 S S"]:
        """Float32, as the image processor returns them. Like Pillow, it rounds after each
        direction."""
        with torch.autocast(
            images.device.type, enabled=False
        ):  # bfloat16 has fewer steps than a picture
            x = images.permute(0, 3, 1, 2).float()
            if self.matrix is not None:
                x = (x @ self.matrix.T).round_().clamp_(0, 255)
                x = (self.matrix @ x).round_().clamp_(0, 255)
            normal: Tensor = (x * self.scale - self.mean) / self.std
            return normal


def geometry(recipe: Recipe, image_size: int) -> Float[np.ndarray, "S N"]:
    """The matrix that makes `S` rows of a picture's `image_size`.

    Pillow itself computes it: resizing is linear, and a column of the matrix is what becomes of one
    row.
    """
    matrix = np.eye(image_size, dtype=np.float32)
    for side in recipe.sides:
        if side != len(matrix):
            picture = Image.fromarray(matrix)
            matrix = np.asarray(
                picture.resize((image_size, side), resample=Image.Resampling(recipe.filter))
            )
    if recipe.crop is not None:
        start = (len(matrix) - recipe.crop) // 2
        matrix = matrix[start : start + recipe.crop]
    return np.array(matrix)


def patches(
    x: Float[Tensor, "B 3 S S"], *, size: int, merge: int, frames: int
) -> Float[Tensor, "n k"]:
    """The square patches of all pictures in one list, `merge` x `merge` neighbours together; each
    one is repeated `frames` times, as a still film (the Qwen2-VL family)."""
    grid = x.shape[-1] // size
    split = x.reshape(len(x), 3, grid // merge, merge, size, grid // merge, merge, size)
    ordered = split.permute(
        0, 2, 5, 3, 6, 1, 4, 7
    )  # picture, block, place in the block, channel, pixel
    film = ordered.unsqueeze(6).expand(*ordered.shape[:6], frames, size, size)
    return film.reshape(len(x) * grid * grid, 3 * frames * size * size)


# --- as a library's image processor says


class Pixels(nn.Module):
    """All that a model wants to know about pictures, as its `processor` for single ones would say
    it.

    Raises `UserError` where the processor does something else than resize, crop and normalise.
    """

    def __init__(self, processor: Any, image_size: int) -> None:
        super().__init__()
        for tiling in (
            "do_image_splitting",
            "do_pan_and_scan",
        ):  # many times the tokens, for reading small print
            if getattr(processor, tiling, False):
                setattr(processor, tiling, False)
        picture = sample(image_size)
        reference = processor(images=[Image.fromarray(picture)], return_tensors="pt")
        try:
            expected = reference["pixel_values"]
            recipe = _recipe(processor, reference)
        except (AttributeError, KeyError, TypeError) as error:
            raise _unknown(processor) from error
        self.names = set(reference.keys())
        self.tiles = expected.ndim == 5
        self.patches = _patches(processor) if GRID in reference else None
        self.pictures = Pictures(recipe, image_size=image_size)
        self.beside = [name for name in (GRID, "pixel_attention_mask") if name in reference]
        for name in self.beside:
            self.register_buffer(name, reference[name], persistent=False)
        ours = self(torch.from_numpy(picture)[None], torch.float32)["pixel_values"]
        if ours.shape != expected.shape or _steps(ours - expected, recipe) > TOLERANCE:
            raise _unknown(processor)

    def forward(self, images: UInt8[Tensor, "B H W 3"], dtype: torch.dtype) -> dict[str, Tensor]:
        """`pixel_values` of `dtype`, and what goes with them."""
        x = self.pictures(images).to(dtype)
        if self.patches is not None:
            x = patches(x, **self.patches)
        beside = {name: self.get_buffer(name) for name in self.beside}
        return {
            "pixel_values": x[:, None] if self.tiles else x,
            **{name: value.expand(len(images), *value.shape[1:]) for name, value in beside.items()},
        }


def _patches(processor: Any) -> dict[str, int]:
    return {
        "size": processor.patch_size,
        "merge": processor.merge_size,
        "frames": processor.temporal_patch_size,
    }


def _recipe(processor: Any, reference: Mapping[str, Tensor]) -> Recipe:
    """From the processor's settings and what it made of a picture."""
    side = reference["pixel_values"].shape[-1]
    if GRID in reference:
        side = int(reference[GRID][0, 1]) * processor.patch_size
    crops = bool(getattr(processor, "do_center_crop", False))
    size = dict(processor.size)
    if not processor.do_resize:
        sides: tuple[int, ...] = ()
    elif crops:
        sides = (size.get("shortest_edge") or size["height"],)
    elif getattr(
        processor, "max_image_size", None
    ):  # Idefics3: as large as for tiling, and then the size of one tile
        sides = (size["longest_edge"], side)
    else:
        sides = (side,)
    normalises = processor.do_normalize
    return Recipe(
        sides=sides,
        filter=int(processor.resample),
        crop=side if crops else None,
        scale=processor.rescale_factor if processor.do_rescale else 1.0,
        mean=tuple(processor.image_mean) if normalises else (0.0,) * 3,
        std=tuple(processor.image_std) if normalises else (1.0,) * 3,
    )


def _unknown(processor: Any) -> UserError:
    return UserError(
        f"{type(processor).__name__} prepares pictures in a way that irevla does not know: choose another VLM"
    )


def sample(image_size: int) -> UInt8[np.ndarray, "H W 3"]:
    """A picture with edges, slopes and all colours, to compare two ways of preparing it."""
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    blocks = np.asarray(
        Image.fromarray(coarse).resize((image_size, image_size), Image.Resampling.NEAREST)
    )
    slopes = np.asarray(
        Image.fromarray(coarse[::-1]).resize((image_size, image_size), Image.Resampling.BILINEAR)
    )
    return np.where(np.arange(image_size)[:, None, None] % 16 < 8, blocks, slopes)


def _steps(difference: Tensor, recipe: Recipe) -> float:
    """The mean of a difference between prepared pictures, in steps of a picture's values
    (0..255)."""
    return float(difference.abs().mean()) * sum(recipe.std) / len(recipe.std) / recipe.scale
