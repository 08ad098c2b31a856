import pytest
import torch
from torch import Tensor, nn

from irevla.errors import UserError
from irevla.models.vlm import tokenizer
from irevla.models.vlm.tiny import TinyVLM

TEXTS = ["open the drawer", "press the button on the wall", "zyzzyva", ""]


@pytest.fixture
def vlm() -> TinyVLM:
    return TinyVLM(width=32, image_size=32)


def pictures(count: int, size: int = 32) -> Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8)


def test_the_default_is_small_and_reads_sixteen_image_tokens() -> None:
    vlm = TinyVLM()
    h = vlm.encode(pictures(2, 64), ["open the drawer", "close the door"])
    assert sum(parameter.numel() for parameter in vlm.parameters()) < 5_000_000
    assert h.tokens.shape == (2, 16 + 1 + 3, 128) and h.mask.all()


@pytest.mark.parametrize(
    ("size", "grid", "tokens"), [(32, 4, 16), (64, 8, 64), (96, 4, 36), (50, 4, 49), (16, 4, 16)]
)
def test_other_pictures_give_about_grid_by_grid_tokens(size: int, grid: int, tokens: int) -> None:
    h = TinyVLM(width=32, image_size=size, grid=grid).encode(pictures(1, size), [""])
    assert h.tokens.shape == (1, tokens + 1, 32)


def test_a_row_does_not_depend_on_its_batch_nor_on_padding(vlm: TinyVLM) -> None:
    images = pictures(4)
    batch = vlm.encode(images, TEXTS)
    for row, text in enumerate(TEXTS):
        alone = vlm.encode(images[row : row + 1], [text])
        real = batch.mask[row]
        assert real.sum() == alone.mask.sum() == 16 + 1 + len(tokenizer.encode(text))
        torch.testing.assert_close(batch.tokens[row][real], alone.tokens[0], atol=1e-5, rtol=1e-5)


def test_picture_and_prompt_see_each_other(vlm: TinyVLM) -> None:
    images = pictures(2)
    one = vlm.encode(images[:1], ["red door"]).tokens[0]
    other_word = vlm.encode(images[:1], ["red window"]).tokens[0]
    other_picture = vlm.encode(images[1:], ["red door"]).tokens[0]
    assert (
        (one - other_word).abs().amax(-1) > 1e-6
    ).all()  # every token, the picture's first one too
    assert ((one - other_picture).abs().amax(-1) > 1e-6).all()


def test_logits_have_a_row_for_each_answer_token_and_its_end(vlm: TinyVLM) -> None:
    logits = vlm.logits(pictures(2), ["what is it?", "where"], ["a red door", "left"])
    targets = vlm.targets(["a red door", "left"])
    assert logits.shape == (2, 4, tokenizer.vocabulary_size())
    assert (
        targets.shape == (2, 4)
        and targets[0, -1] == tokenizer.EOS
        and (targets[1, 2:] == -100).all()
    )


def test_answers_are_causal(vlm: TinyVLM) -> None:
    images, prompts = pictures(1), ["what is it?"]
    one = vlm.logits(images, prompts, ["a red door"])[0]
    other = vlm.logits(images, prompts, ["a red window"])[0]
    torch.testing.assert_close(one[:3], other[:3], atol=1e-6, rtol=0)
    assert (one[3] - other[3]).abs().max() > 1e-4


def test_picture_and_prompt_read_the_same_whether_an_answer_follows_or_not(vlm: TinyVLM) -> None:
    hidden: list[Tensor] = []
    vlm.norm.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    images, prompts = pictures(2), ["what is it?", "where"]
    latents = vlm.encode(images, prompts)
    vlm.logits(images, prompts, ["a red door", "left"])
    real = latents.mask
    torch.testing.assert_close(
        hidden[1][:, : real.shape[1]][real], latents.tokens[real], atol=1e-5, rtol=1e-5
    )


def test_logits_do_not_depend_on_the_padding_of_prompts_and_answers(vlm: TinyVLM) -> None:
    images = pictures(2)
    both = vlm.logits(
        images, ["what", "what is on the table?"], ["red", "a blue and a green block"]
    )
    alone = vlm.logits(images[:1], ["what"], ["red"])
    torch.testing.assert_close(both[:1, :2], alone, atol=1e-5, rtol=1e-5)


def test_it_learns_to_answer_and_generates_what_it_learned(vlm: TinyVLM) -> None:
    images = torch.stack([torch.zeros(32, 32, 3), torch.full((32, 32, 3), 255)]).to(torch.uint8)
    prompts, answers = ["what colour?"] * 2, ["black", "pure white"]
    optimizer = torch.optim.Adam(vlm.parameters(), lr=1e-2)
    for _ in range(30):
        scores = vlm.logits(images, prompts, answers)
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), vlm.targets(answers).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert vlm.generate(images, ["what colour?"] * len(images)) == answers


def test_generation_stops_at_its_limit(vlm: TinyVLM) -> None:
    assert len(tokenizer.encode(vlm.generate(pictures(1), ["what"], max_tokens=2)[0])) <= 2


def test_too_long_a_text_is_the_users_error(vlm: TinyVLM) -> None:
    with pytest.raises(UserError, match="shorten the instruction"):
        vlm.encode(pictures(1), ["red " * 200])
    with pytest.raises(UserError, match="shorten the instruction"):
        vlm.logits(pictures(1), ["red"], ["red " * 200])


def test_latents_need_no_output_layer(vlm: TinyVLM) -> None:
    images = pictures(1)
    before = vlm.encode(images, ["open"]).tokens
    vlm.take_off_output_layer()
    assert not any(name.startswith("output_layer") for name, _ in vlm.named_parameters())
    assert torch.equal(before, vlm.encode(images, ["open"]).tokens)
