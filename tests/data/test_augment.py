import numpy as np
import pytest
import torch

from irevla.compute.ranks import Ranks
from irevla.config import AugmentConfig
from irevla.data.augment import augment, colour_mix, name_colours, random_shift, swap_words
from irevla.types import Observation


def pictures(batch: int = 6, height: int = 8, width: int = 9) -> torch.Tensor:
    return torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8)


def strengths(strength: float, batch: int = 6) -> torch.Tensor:
    return torch.full((batch,), strength)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shift_is_a_crop_of_the_picture_with_its_edge_repeated(dtype: torch.dtype) -> None:
    images = pictures().to(dtype)
    shifted = random_shift(images, 2, generator())
    assert shifted.dtype == dtype
    down, right = torch.randint(-2, 3, (2, 6, 1), generator=generator())[..., 0].tolist()
    for image, got, dy, dx in zip(images, shifted, down, right, strict=True):
        padded = np.pad(image.numpy(), ((2, 2), (2, 2), (0, 0)), mode="edge")
        assert np.array_equal(got.numpy(), padded[2 + dy : 10 + dy, 2 + dx : 11 + dx])
    assert len(set(zip(down, right, strict=True))) > 3  # each picture its own


def test_shift_by_0_is_the_identity() -> None:
    images = pictures()
    assert torch.equal(random_shift(images, 0, generator()), images)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("strength", "share"), [(0.0, 1.0), (0.35, 0.0)])
def test_no_colour_mix_is_the_identity(dtype: torch.dtype, strength: float, share: float) -> None:
    images = pictures().to(dtype)
    mixed = colour_mix(images, strengths(strength), share, generator())
    assert mixed.dtype == dtype
    assert torch.equal(mixed, images)


@pytest.mark.parametrize("width", [8, 9])
def test_colour_mix_is_one_matrix_per_picture_around_grey(width: int) -> None:
    """Fitted, from the pixels that nothing clipped: x' - 127.5 = (x - 127.5) M."""
    images = pictures(height=16, width=width).float()
    mixed = colour_mix(images, strengths(0.35), 1.0, generator())
    matrices = []
    for x, y in zip(images.view(6, -1, 3), mixed.view(6, -1, 3), strict=True):
        inside = ((y > 0) & (y < 255)).all(1)
        matrix = torch.linalg.lstsq(x[inside] - 127.5, y[inside] - 127.5).solution
        torch.testing.assert_close(
            y[inside], (x[inside] - 127.5) @ matrix + 127.5, atol=1e-2, rtol=0
        )
        torch.testing.assert_close(
            y, ((x - 127.5) @ matrix + 127.5).clamp(0, 255), atol=1e-2, rtol=0
        )
        matrices.append(matrix)
    spread = (torch.stack(matrices) - torch.eye(3)).std().item()
    assert 0.2 < spread < 0.55
    rounded = colour_mix(images.to(torch.uint8), strengths(0.35), 1.0, generator())
    assert (rounded.float() - mixed).abs().max() <= 0.51


def test_colour_mix_leaves_its_share_alone() -> None:
    images = pictures(batch=400, height=4, width=4)
    untouched = (
        (colour_mix(images, strengths(0.35, 400), 0.8, generator()) == images).flatten(1).all(1)
    )
    assert 50 <= int(untouched.sum()) <= 110


def test_each_picture_has_a_strength_of_its_own() -> None:
    images = pictures()
    mixed = colour_mix(images, torch.tensor([0.0, 0.35] * 3), 1.0, generator())
    assert [torch.equal(x, y) for x, y in zip(images, mixed, strict=True)] == [True, False] * 3
    weakly, strongly = (
        colour_mix(images.float(), strengths(strength), 1.0, generator()).sub(images).abs().mean()
        for strength in (0.05, 0.35)
    )
    assert weakly < 0.4 * strongly


def test_which_instructions_name_a_colour() -> None:
    texts = [
        "pick up the Red block",
        "pick up the pear",
        "put the bored cat into the tray",
        "open the yellow drawer",
    ]
    assert name_colours(texts).tolist() == [True, False, False, True]


def test_words_are_swapped_but_for_colours() -> None:
    texts = ["pick up the red block", "press the button", "red"] * 200
    swapped = swap_words(texts, ("wug", "dax"), 0.5, generator())
    assert swapped == swap_words(texts, ("wug", "dax"), 0.5, generator())
    changed = [new.split() for old, new in zip(texts, swapped, strict=True) if new != old]
    assert 150 < len(changed) < 250, "half of those that can be"
    for words in changed:
        assert sum(word in ("wug", "dax") for word in words) == 1
        assert len(words) == 3 or words[3] == "red"
    assert {words.index(new) for words in changed for new in ("wug", "dax") if new in words} == {
        0,
        1,
        2,
        4,
    }
    assert swap_words(texts, ("wug",), 0.0, generator()) == texts


def test_the_generator_alone_decides() -> None:
    images = pictures()
    for transform in (
        lambda g: random_shift(images, 3, g),
        lambda g: colour_mix(images, strengths(0.35), 0.8, g),
    ):
        first = transform(generator(1))
        torch.rand(5)
        assert torch.equal(transform(generator(1)), first)
        assert not torch.equal(transform(generator(2)), first)


def test_what_happens_to_a_sample_depends_on_its_place_in_the_batch_alone() -> None:
    texts = tuple(
        f"go to {name} disc" for name in ["the", "a", "any", "one", "this", "that", "every"]
    )
    seen = Observation(pictures(7), texts)
    config = AugmentConfig(shift=2, colour=0.5, words=0.5)

    def changed(rank: int, ranks: int) -> Observation:
        part = Ranks(rank, ranks).part(7)
        mine = seen[part.rows]
        return augment(mine, config, words=("wug", "dax"), generator=generator(), part=part)

    whole = augment(seen, config, words=("wug", "dax"), generator=generator())
    parts = Observation.cat([changed(rank, 3) for rank in range(3)])
    assert torch.equal(parts.images, whole.images)
    assert parts.instructions == whole.instructions != texts
    assert not torch.equal(whole.images, seen.images)
