"""Augmentation, for the supervised stages alone: RL works on the latents of the true image."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from irevla.compute.ranks import Part
from irevla.config import AugmentConfig
from irevla.types import Observation


def augment(
    observation: Observation,
    config: AugmentConfig,
    *,
    words: Sequence[str],
    generator: torch.Generator,
    part: Part | None = None,
) -> Observation:
    """Return the observation with images shifted and recoloured, and words of instructions swapped.

    `words` are what `config.words` puts in the place of others. `generator` is on the CPU. What
    happens to a sample depends on its place in the batch: `part` says which the observation has,
    where that is not all.
    """
    images: Tensor = observation.images
    instructions = observation.instructions
    part = part or Part.whole(len(observation))
    if config.shift:
        images = _shifted(images, config.shift, generator, part)
    if config.colour and config.colour_share:
        named = min(config.colour_named, config.colour)
        strength = torch.where(name_colours(instructions), named, config.colour)
        images = colour_mix(images, strength, config.colour_share, generator, part)
    if config.words:
        instructions = tuple(swap_words(instructions, words, config.words, generator, part))
    return Observation(images, instructions, observation.state)


_COLOURS = """
red green blue yellow orange purple violet pink brown black white grey gray cyan magenta teal
turquoise gold golden silver beige tan maroon navy olive lime crimson
"""
COLOURS = frozenset(_COLOURS.split())
BRIGHTNESS = 0.57  # deviation of the brightness, as a share of the strength: 0.2 at 0.35


def _shifted(
    images: Num[Tensor, "B H W 3"], pad: int, generator: torch.Generator, part: Part
) -> Num[Tensor, "B H W 3"]:
    """Move the square of each camera by itself: what leaves one must not come into the next."""
    _, height, width, _ = images.shape
    count = max(1, height // width)
    squares = images.reshape(-1, height // count, width, 3)
    mine = Part(count * part.first, count * part.last, count * part.size)
    return random_shift(squares, pad, generator, mine).view(images.shape)


def random_shift(
    images: Num[Tensor, "B H W 3"],
    pad: int,
    generator: torch.Generator,
    part: Part | None = None,
) -> Num[Tensor, "B H W 3"]:
    """Move each image by up to `pad` pixels each way; the edge is repeated into the gap."""
    batch, height, width, _ = images.shape
    part = part or Part.whole(batch)
    offsets = torch.randint(-pad, pad + 1, (2, part.size, 1), generator=generator)[:, part.rows]
    rows = (offsets[0] + torch.arange(height)).clamp_(0, height - 1)
    columns = (offsets[1] + torch.arange(width)).clamp_(0, width - 1)
    # One gather of whole pixels from a flat list of them: 4 times faster than indexing three axes.
    image = torch.arange(batch)[:, None, None] * (height * width)
    index = image + rows[:, :, None] * width + columns[:, None, :]
    return (
        images.reshape(-1, 3).index_select(0, index.flatten().to(images.device)).view(images.shape)
    )


def colour_mix(
    images: Num[Tensor, "B H W 3"],
    strength: Float[Tensor, " B"],
    share: float,
    generator: torch.Generator,
    part: Part | None = None,
) -> Num[Tensor, "B H W 3"]:
    """Mix the colours of about `share` of the images, each by a random matrix, around middle grey.

    x' = 127.5 + (x - 127.5) M, M = b (I + strength N(0, 1)), b = 1 + BRIGHTNESS strength N(0, 1),
    clamped to 0..255. Keeps a policy from tying what it does to the colours of the demonstrations.
    The type stays: uint8 is rounded.
    """
    batch, height, width, _ = images.shape
    part = part or Part.whole(batch)
    strength = strength[:, None, None]
    noise = torch.randn(part.size, 3, 3, generator=generator)[part.rows]
    bright = torch.randn(part.size, 1, 1, generator=generator)[part.rows]
    brightness = 1 + BRIGHTNESS * strength * bright
    chosen = torch.rand(part.size, 1, 1, generator=generator)[part.rows] < share
    mix = torch.where(chosen, brightness * (torch.eye(3) + strength * noise), torch.eye(3))
    rounding = 0.5 if images.dtype == torch.uint8 else 0.0
    # Exactly `rounding` for the identity.
    offset = 127.5 * (1 - mix.sum(1, keepdim=True)) + rounding

    # Products with 3 x 3 matrices are slow: eight pixels at a time, and a block-diagonal matrix,
    # take a quarter of the time.
    block = math.gcd(height * width, 8)
    matrix = torch.zeros(batch, block, 3, block, 3)
    pixel = torch.arange(block)
    matrix[:, pixel, :, pixel] = mix
    matrix = matrix.view(batch, 3 * block, 3 * block).to(images.device)
    pixels = images.reshape(batch, -1, 3 * block).float()
    mixed = torch.baddbmm(offset.repeat(1, 1, block).to(images.device), pixels, matrix)
    return mixed.clamp_(0, 255).to(images.dtype).view(images.shape)


def name_colours(instructions: Sequence[str]) -> Bool[Tensor, " B"]:
    """Return which instructions name a colour, which their image must then keep."""
    named = [not COLOURS.isdisjoint(text.lower().split()) for text in instructions]
    return torch.tensor(named, dtype=torch.bool)


def swap_words(
    instructions: Sequence[str],
    words: Sequence[str],
    share: float,
    generator: torch.Generator,
    part: Part | None = None,
) -> list[str]:
    """Return instructions, in about `share` of which one word, no colour, became any of `words`.

    Lets a policy do what the rest of an instruction says where it was never taught a word.
    """
    part = part or Part.whole(len(instructions))
    chosen = torch.rand(part.size, generator=generator)[part.rows] < share
    numbers = torch.randint(2**31, (2, part.size), generator=generator)
    places, others = numbers[:, part.rows].tolist()
    return [
        _swapped(text, place, words[other % len(words)]) if swap else text
        for text, swap, place, other in zip(
            instructions, chosen.tolist(), places, others, strict=True
        )
    ]


def _swapped(text: str, place: int, word: str) -> str:
    pieces = text.split()
    free = [index for index, piece in enumerate(pieces) if piece.lower() not in COLOURS]
    if free:
        pieces[free[place % len(free)]] = word
    return " ".join(pieces)
