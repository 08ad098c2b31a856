"""A vision-language model of our own for a laptop: {vision, text} -> {text}, about 1.35 million
parameters.

A strided convolutional stem turns the image into 4 x 4 tokens; a pre-norm transformer, the tower,
reads them and the prompt, which see each other; a small decoder, which reads the tower's last
hidden states, writes the answer. So the states that the policy is given are those that answers are
made from; in a language model of one stack, nothing would ever read the last states of image and
prompt. Nothing depends on the batch: no batch normalisation, no dropout, so an image has the same
latent alone and among others.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from irevla.errors import UserError
from irevla.models.products import Linear, is_mixed, linear
from irevla.models.vlm import tokenizer
from irevla.models.vlm.base import VLM
from irevla.types import Features, Observation

DECODER_LAYERS = 2
IGNORE = -100  # the target of padding, which `cross_entropy` leaves out


class TinyVLM(VLM):
    """See the module.

    `grid` x `grid` image tokens for images of `image_size` pixels; prompts and answers of
    `context` tokens at most.
    """

    lora_targets = r".*tower\..*\.(qkv|out|up|down)"

    def __init__(
        self,
        *,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        image_size: int = 64,
        grid: int = 4,
        channels: int = 24,
        context: int = 128,
    ) -> None:
        super().__init__()
        assert width % heads == 0
        self.width = width
        self.context = context
        self.stem = Stem(width=width, image_size=image_size, grid=grid, channels=channels)
        self.image_position = nn.Parameter(0.02 * torch.randn(self.stem.grid**2, width))
        self.embedding = nn.Embedding(tokenizer.vocabulary_size(), width)
        self.text_position = nn.Parameter(0.02 * torch.randn(context, width))
        self.tower = nn.ModuleList(Block(width=width, heads=heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.decoder = nn.ModuleList(
            DecoderBlock(width=width, heads=heads) for _ in range(DECODER_LAYERS)
        )
        self.decoder_norm: nn.Module = nn.LayerNorm(width)
        self.output_layer: nn.Module = nn.Linear(width, tokenizer.vocabulary_size(), bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def take_off_output_layer(self) -> None:
        """Drop the final fully connected layer, and the decoder with it: an action head takes its
        place (section IV-A).

        The model speaks no more.
        """
        self.decoder = nn.ModuleList()
        self.decoder_norm = nn.Identity()
        self.output_layer = nn.Identity()

    def encode(self, observation: Observation) -> Features:
        """Return h, the tower's last hidden states of the image's tokens and the prompt's.

        `m` is that of the longest prompt.
        """
        images = observation.images
        prompt, mask, padded = self._prompts(observation.instructions, images.device)
        x = self._prefix(images, prompt)
        mask = F.pad(mask, (self.stem.grid**2, 0), value=True)
        visible = mask[:, None, None, :] if padded else None
        for block in self.tower:
            x = block(x, visible)
        return Features(self.norm(x), mask)

    def logits(self, observation: Observation, answers: Sequence[str]) -> Float[Tensor, "B L V"]:
        """Return scores of each next token of the answers, given image, prompt and the answer so
        far (teacher forcing).

        Row `l` scores the answer's token `l`, the last one EOS: the targets are `targets(answers)`.
        """
        told = [(tokenizer.SEP, *tokenizer.encode(answer)) for answer in answers]
        return self._scores(self.encode(observation), told)

    def targets(self, answers: Sequence[str]) -> Int[Tensor, "B L"]:
        """Return what `logits` should predict: the answers' tokens and EOS.

        `IGNORE` where an answer is shorter than the longest.
        """
        return _pad([(*tokenizer.encode(answer), tokenizer.EOS) for answer in answers], IGNORE)

    @torch.no_grad()
    def generate(self, observation: Observation, *, max_tokens: int = 64) -> list[str]:
        """Return the most likely answer to each prompt, token by token."""
        features = self.encode(observation)
        answers = [[tokenizer.SEP] for _ in observation.instructions]
        for _ in range(max_tokens):
            scores = self._scores(features, [tuple(tokens) for tokens in answers])
            best = scores[:, -1].argmax(-1)
            for tokens, token in zip(answers, best.tolist(), strict=True):
                tokens.append(tokenizer.EOS if tokens[-1] == tokenizer.EOS else token)
            if all(tokens[-1] == tokenizer.EOS for tokens in answers):
                break
        return [tokenizer.decode(tokens) for tokens in answers]

    def _scores(
        self, features: Features, answers: Sequence[tuple[int, ...]]
    ) -> Float[Tensor, "B L V"]:
        assert isinstance(self.output_layer, nn.Linear), "the output layer was taken off"
        self._check_length(max(map(len, answers)))
        answer = _pad(answers, tokenizer.PAD).to(features.tokens.device)
        length = answer.shape[1]
        order = torch.arange(length, device=answer.device)
        earlier = (order <= order[:, None]).expand(len(answer), 1, length, length)
        real = features.mask[:, None, None, :].expand(-1, -1, length, -1)
        visible = torch.cat([real, earlier], -1)  # query x key: h, then the answer so far
        x = self.embedding(answer) + self.text_position[:length]
        for block in self.decoder:
            x = block(x, features.tokens, visible)
        scores: Tensor = self.output_layer(self.decoder_norm(x))
        return scores

    def _prompts(
        self, prompts: Sequence[str], device: torch.device
    ) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"], bool]:
        """Return BOS and the prompts' tokens, which of them are real, and whether any is not.

        The last is found without waiting for a GPU.
        """
        tokens = [(tokenizer.BOS, *tokenizer.encode(prompt)) for prompt in prompts]
        self._check_length(max(map(len, tokens)))
        ids = _pad(tokens, tokenizer.PAD)
        real = ids != tokenizer.PAD
        padded = len({len(row) for row in tokens}) > 1
        return ids.to(device), real.to(device), padded

    def _prefix(
        self, images: UInt8[Tensor, "B H W 3"], prompt: Int[Tensor, "B P"]
    ) -> Float[Tensor, "B M d"]:
        image = self.stem(images) + self.image_position
        text = self.embedding(prompt) + self.text_position[: prompt.shape[1]]
        return torch.cat([image, text], 1)

    def _check_length(self, length: int) -> None:
        if length > self.context:
            raise UserError(
                f"the text has {length} tokens and the model reads {self.context}: shorten the "
                "instruction"
            )


class Stem(nn.Module):
    """Pixels to tokens: 3 x 3 convolutions of stride 2, each twice as wide as the last.

    They stop where halving again would leave fewer than `grid` x `grid` places. Far easier to learn
    from than 4 x 4 patches through one linear layer.
    """

    def __init__(self, *, width: int, image_size: int, grid: int, channels: int) -> None:
        super().__init__()
        self.grid = image_size
        widths: list[int] = []
        while self.grid // 2 >= grid:
            self.grid = (self.grid + 1) // 2
            widths.append(min(width, channels << len(widths)))
        assert widths, f"images of {image_size} pixels are too small for {grid} x {grid} tokens"
        layers: list[nn.Module] = []
        channels_of = [3, *widths[:-1], width]
        for number, (inputs, outputs) in enumerate(pairwise(channels_of), start=1):
            last = number == len(widths)
            layers.append(_convolution(inputs, outputs, last=last))
            if not last:
                layers.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B M d"]:
        """Return tokens row by row.

        Images lie in memory as channels-last convolutions want them, so that no permutation copies.
        """
        x = images.permute(0, 3, 1, 2).float().mul_(1 / 127.5).sub_(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed(x)):
            tokens: Tensor = self.layers(x)
        return tokens.float().permute(0, 2, 3, 1).flatten(1, 2)


def _convolution(inputs: int, outputs: int, *, last: bool) -> nn.Conv2d:
    """Return one with He's initial weights.

    Torch's own shrink the signal in each layer, and learning starts more slowly.
    """
    layer = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear" if last else "relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it has one
    channels_last: nn.Conv2d = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return channels_last


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = Linear(width, 4 * width)
        self.down = Linear(4 * width, width)

    def forward(
        self, x: Float[Tensor, "B S d"], visible: Bool[Tensor, "..."] | None
    ) -> Float[Tensor, "B S d"]:
        """Return x after the layer.

        `visible` broadcasts to `B heads S S` (query x key); None: all see all.
        """
        q, k, v = self._heads(self.qkv(self.norm1(x)))
        return self._rest(x, q, k, v, visible)

    def _heads(self, x: Float[Tensor, "B S _"]) -> list[Tensor]:
        """Return what `qkv` puts side by side, one after the other: each `B heads S d/heads`."""
        batch, length, _ = x.shape
        size = self.out.in_features // self.heads
        return list(x.view(batch, length, -1, self.heads, size).permute(2, 0, 3, 1, 4).unbind())

    def _rest(
        self,
        x: Float[Tensor, "B S d"],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        visible: Bool[Tensor, "..."] | None,
    ) -> Float[Tensor, "B S d"]:
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        fed: Tensor = self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))
        return x + fed


class DecoderBlock(Block):
    """A layer of the decoder: the answer's tokens read h and the answer so far."""

    def forward(  # type: ignore[override]
        self,
        x: Float[Tensor, "B L d"],
        h: Float[Tensor, "B m d"],
        visible: Bool[Tensor, "B 1 L m+L"],
    ) -> Float[Tensor, "B L d"]:
        """Return x after the layer. `visible`: query x key, first those of h."""
        width = x.shape[-1]
        q, k, v = self._heads(self.qkv(self.norm1(x)))
        h_k, h_v = self._heads(linear(h, self.qkv.weight[width:], self.qkv.bias[width:]))
        return self._rest(x, q, torch.cat([h_k, k], 2), torch.cat([h_v, v], 2), visible)


def _pad(rows: Sequence[tuple[int, ...]], value: int) -> Int[Tensor, "B L"]:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *(value,) * (longest - len(row))] for row in rows])
