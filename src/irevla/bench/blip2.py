"""BLIP-2 with random weights, made on the device from nothing: no files, no network, no copy in
float32.

The sizes are those published for BLIP-2 2.7B (OPT): the library's own defaults for the vision tower
and the Q-Former, and OPT 2.7B for the language tower; 3.74 billion parameters. The tokenizer is a
stand-in with one token for each word, as nearly all words of a prompt have in the real one.
"""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from irevla.errors import UserError
from irevla.models.vlm.families import FAMILIES, question
from irevla.models.vlm.huggingface import HuggingFaceVLM

PAD, BOS, UNKNOWN, IMAGE = "<pad>", "</s>", "<unk>", "<image>"
IMAGE_ID = 50265
NAME = "random/blip2"
Sizes = Mapping[str, Mapping[str, Any]]
NO_CHANCE = {
    "text_config": {"dropout": 0.0, "use_cache": False},
    "qformer_config": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}
"""What the adapter sets in every model that it loads."""

FULL: Sizes = {
    "text_config": {
        "vocab_size": 50304, "hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32, "ffn_dim": 10240,
    },
    "vision_config": {},
    "qformer_config": {},
}  # fmt: skip
"""BLIP-2 2.7B, where it differs from the library's defaults. 224 pixels."""

_NARROW = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL: Sizes = {
    "text_config": {**_NARROW, "vocab_size": 50304, "ffn_dim": 64},
    "vision_config": {**_NARROW, "intermediate_size": 64, "image_size": 56},
    "qformer_config": {**_NARROW, "intermediate_size": 64},
}
"""The same architecture in miniature, to try the benchmarks on a CPU."""


def vlm(sizes: Sizes, *, image_size: int, device: torch.device) -> HuggingFaceVLM:
    """The adapter around a random BLIP-2: bfloat16, but for the CPU, as the adapter itself chooses.

    It has a base model by name, so that a policy's files hold LoRA and the head alone, as with a
    real one.
    """
    if find_spec("transformers") is None:
        raise UserError("--vlm blip2 needs the package transformers: pip install 'irevla[hub]'")
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    made = HuggingFaceVLM(model(sizes, device, dtype), processor(image_size), image_size=image_size)
    made.base, made.revision = NAME, "random"
    return made


def model(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Any:
    """A `Blip2ForConditionalGeneration` whose weights are drawn from N(0, 0.02) on the device.

    Not zeros, which the library gives the vision tower: a GPU multiplies them faster. On the device
    "meta" it has no weights.
    """
    from transformers import Blip2ForConditionalGeneration

    with torch.device("meta"):
        made = Blip2ForConditionalGeneration(_settings(sizes))
    assert not list(made.buffers()), "whose values `to_empty` would lose"
    made = made.eval().to(dtype).to_empty(device=device)
    made.tie_weights()  # `to_empty` gave the embedding and the output layer a memory each
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.02)
        for module in made.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.fill_(1)
    return made


def _settings(sizes: Sizes) -> Any:
    from transformers import Blip2Config

    towers = {tower: {**own, **NO_CHANCE.get(tower, {})} for tower, own in sizes.items()}
    towers["text_config"]["model_type"] = "opt"
    return Blip2Config(**towers, image_token_index=IMAGE_ID)


def processor(image_size: int) -> Any:
    """A `Blip2Processor` for pictures of `image_size` pixels, with the stand-in tokenizer."""
    from transformers import Blip2Processor, BlipImageProcessorPil, PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(),
        pad_token=PAD,
        bos_token=BOS,
        eos_token=BOS,
        unk_token=UNKNOWN,
    )
    pictures = BlipImageProcessorPil(size={"height": image_size, "width": image_size})
    return Blip2Processor(pictures, words, num_query_tokens=32)


def _tokenizer() -> Any:
    """One token for each word or mark of the prompt, BOS before them. Other words are all the same
    unknown one."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

    prompt = FAMILIES["blip-2"].prompt.format(question=question("close the window"))
    vocabulary = {"<s>": 0, PAD: 1, BOS: 2, UNKNOWN: 3, IMAGE: IMAGE_ID}
    for word in re.findall(r"\w+|[^\w\s]", prompt):
        vocabulary.setdefault(word, len(vocabulary) - 1)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True) for token in (PAD, BOS, UNKNOWN, IMAGE)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, 2)]
    )
    return tokenizer
