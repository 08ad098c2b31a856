"""A tiny, newly initialised model of every family, as the folder that a download would be; and
policies on them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from irevla.config import LoRAConfig, ModelConfig
from irevla.models.build import build_policy
from irevla.models.policy import VLAPolicy

PROMPTS = "Question : What action should the robot take to open close push door drawer window puck right red ? Answer :"
MARKS = "<pad> <s> </s> <unk> <image> <|image_pad|> <|video_pad|> <|vision_start|> <|vision_end|> <|im_start|> <|im_end|>"
SPECIAL = [
    *MARKS.split(),
    *("<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
]
WORDS = [*PROMPTS.split(), "user", "assistant", "answer", "en"]
IDS = {token: index for index, token in enumerate([*SPECIAL, *dict.fromkeys(WORDS)])}
VOCABULARY = len(IDS) + 15

VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
LANGUAGE = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {
    **LANGUAGE,
    **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8},
}
OPT = {
    **{
        "model_type": "opt",
        "hidden_size": 16,
        "ffn_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
    **{**LANGUAGE, "max_position_embeddings": 64, "word_embed_proj_dim": 16},
}
T5 = {
    **{"model_type": "t5", "d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 2},
    **{**LANGUAGE, "decoder_start_token_id": 0},
}
QFORMER = {
    **{
        **VISION,
        "vocab_size": VOCABULARY,
        "encoder_hidden_size": 16,
        "cross_attention_frequency": 1,
    },
    "max_position_embeddings": 64,
}
CHAT = (
    "{% for m in messages %}{{ m['role'] }} :{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %} {{ c['text'] }}{% endif %}{% endfor %}{% endfor %} assistant :"
)


def tokenizer(**named: str) -> transformers.PreTrainedTokenizerFast:
    """One token a word. `named` are special tokens that the family calls by name."""
    words = Tokenizer(models.WordLevel(IDS, unk_token="<unk>"))
    words.add_special_tokens(SPECIAL)
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=named,
    )


def blip2(text: dict[str, Any], kind: str = "Blip2") -> transformers.PreTrainedModel:
    config = getattr(transformers, f"{kind}Config")(
        vision_config={**VISION, "image_size": 28, "patch_size": 14},
        qformer_config=QFORMER,
        text_config=text,
        num_query_tokens=3,
        image_token_index=IDS["<image>"],
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config)


def paligemma() -> transformers.PreTrainedModel:
    config = transformers.PaliGemmaConfig(
        vision_config={
            **VISION,
            "model_type": "siglip_vision_model",
            "image_size": 28,
            "patch_size": 14,
        },
        # Gemma 2, as in PaliGemma 2: it caps its logits, which must not touch hidden states.
        text_config={
            **LLAMA,
            "model_type": "gemma2",
            "vocab_size": 1300,
            "final_logit_softcapping": 0.5,
        },
        image_token_index=IDS["<image>"],
        projection_dim=16,
        hidden_size=16,
    )
    return transformers.PaliGemmaForConditionalGeneration(config)


def idefics3(kind: str) -> transformers.PreTrainedModel:
    config = getattr(transformers, f"{kind}Config")(
        vision_config={**VISION, "image_size": 28, "patch_size": 7},
        text_config={**LLAMA, "model_type": "llama"},
        scale_factor=2,
        image_token_id=IDS["<image>"],
        pad_token_id=0,
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config)


def qwen2_5_vl() -> transformers.PreTrainedModel:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = transformers.Qwen2_5_VLConfig(
        vision_config={
            **{
                "depth": 2,
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_heads": 2,
                "out_hidden_size": 16,
            },
            **{
                "patch_size": 14,
                "spatial_merge_size": 2,
                "window_size": 56,
                "fullatt_block_indexes": [1],
            },
        },
        text_config={**LLAMA, "rope_parameters": rope, "max_position_embeddings": 256},
        image_token_id=IDS["<|image_pad|>"],
        video_token_id=IDS["<|video_pad|>"],
        vision_start_token_id=IDS["<|vision_start|>"],
        vision_end_token_id=IDS["<|vision_end|>"],
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def gemma3() -> transformers.PreTrainedModel:
    config = transformers.Gemma3Config(
        vision_config={
            **VISION,
            "model_type": "siglip_vision_model",
            "image_size": 56,
            "patch_size": 14,
        },
        text_config={**LLAMA, "model_type": "gemma3_text"},
        image_token_id=IDS["<image_soft_token>"],
        mm_tokens_per_image=4,
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def llava() -> transformers.PreTrainedModel:
    config = transformers.LlavaConfig(
        vision_config={
            **{**VISION, "num_hidden_layers": 3, "model_type": "clip_vision_model"},
            **{"image_size": 28, "patch_size": 14, "projection_dim": 16},
        },
        text_config={**LLAMA, "model_type": "llama"},
        image_token_index=IDS["<image>"],
    )
    return transformers.LlavaForConditionalGeneration(config)


def florence2() -> transformers.PreTrainedModel:
    layers = {
        f"{part}_{name}": 2
        for part in ("encoder", "decoder")
        for name in ("layers", "attention_heads")
    }
    config = transformers.Florence2Config(
        vision_config={
            **{
                "embed_dim": [8] * 4,
                "depths": [1] * 4,
                "num_heads": [2] * 4,
                "num_groups": [2] * 4,
            },
            **{"projection_dim": 16, "window_size": 2, "drop_path_rate": 0.5},
        },
        text_config={
            **{
                **LANGUAGE,
                **layers,
                "model_type": "bart",
                "d_model": 16,
                "max_position_embeddings": 64,
            },
            **{"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "decoder_start_token_id": 2},
        },
        image_token_id=IDS["<image>"],
    )
    return transformers.Florence2ForConditionalGeneration(config)


MODELS: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    "blip2-opt": lambda: blip2(OPT),
    "blip2-t5": lambda: blip2(T5),
    "instructblip": lambda: blip2(OPT, "InstructBlip"),
    "paligemma": paligemma,
    "smolvlm": lambda: idefics3("SmolVLM"),
    "idefics3": lambda: idefics3("Idefics3"),
    "qwen2.5-vl": qwen2_5_vl,
    "gemma3": gemma3,
    "llava": llava,
    "florence2": florence2,
}


def blip() -> transformers.PreTrainedModel:
    config = transformers.BlipConfig(
        text_config={**VISION, **LANGUAGE, "max_position_embeddings": 64, "sep_token_id": 2},
        vision_config={**VISION, "image_size": 28, "patch_size": 14},
        projection_dim=16,
    )
    return transformers.BlipForConditionalGeneration(config)


def pix2struct() -> transformers.PreTrainedModel:
    sizes = {"hidden_size": 16, "d_kv": 8, "d_ff": 32}
    config = transformers.Pix2StructConfig(
        text_config={**LANGUAGE, **sizes, "num_layers": 2, "num_heads": 2},
        vision_config={
            **sizes,
            "patch_embed_hidden_size": 12,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
    )
    return transformers.Pix2StructForConditionalGeneration(config)


def vision_encoder_decoder() -> transformers.PreTrainedModel:
    vision = transformers.ViTConfig(**VISION, image_size=28, patch_size=14)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2}
    text = transformers.GPT2Config(**sizes, vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    return transformers.VisionEncoderDecoderModel(config)


STRANGERS = {
    "blip": blip,
    "pix2struct": pix2struct,
    "vision-encoder-decoder": vision_encoder_decoder,
}
"""Families that the library calls generative VLMs too, and that are not supported."""


def square(side: int) -> dict[str, dict[str, int]]:
    return {"size": {"height": side, "width": side}}


def save_processor(family: str, folder: Path) -> None:
    """As the library saves it, and where its own class does not work without torchvision, as it
    would have."""
    image = tokenizer(image_token="<image>")
    match family:
        case "blip2-opt" | "blip2-t5":
            made = transformers.Blip2Processor(
                transformers.BlipImageProcessorPil(**square(28)), tokenizer(), 3
            )
        case "instructblip":
            pictures = transformers.BlipImageProcessorPil(**square(28))
            made = transformers.InstructBlipProcessor(pictures, tokenizer(), tokenizer(), 3)
        case "paligemma":
            pictures = transformers.SiglipImageProcessorPil(**square(28), image_seq_length=4)
            made = transformers.PaliGemmaProcessor(pictures, image)
        case "llava":
            crop = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}}
            made = transformers.LlavaProcessor(
                transformers.CLIPImageProcessorPil(**crop),
                image,
                patch_size=14,
                vision_feature_select_strategy="default",
                num_additional_image_tokens=1,
                chat_template=CHAT.replace("IMAGE", "<image>"),
            )
        case "gemma3":
            names = {
                "image": "<image_soft_token>",
                "boi": "<start_of_image>",
                "eoi": "<end_of_image>",
            }
            words = tokenizer(**{f"{name}_token": token for name, token in names.items()})
            pictures = transformers.Gemma3ImageProcessorPil(**square(56))
            template = "<s>" + CHAT.replace("IMAGE", "<start_of_image>")
            made = transformers.Gemma3Processor(
                pictures, words, chat_template=template, image_seq_length=4
            )
        case "blip" | "vision-encoder-decoder":
            made = transformers.BlipProcessor(
                transformers.BlipImageProcessorPil(**square(28)), tokenizer()
            )
        case "pix2struct":
            pictures = transformers.Pix2StructImageProcessorPil(
                patch_size={"height": 2, "width": 2}
            )
            made = transformers.Pix2StructProcessor(pictures, tokenizer())
        case "florence2":
            pictures = transformers.CLIPImageProcessorPil(
                **square(64), do_center_crop=False, image_seq_length=5
            )
            made = transformers.Florence2Processor(pictures, image)
        case "idefics3" | "smolvlm" | "qwen2.5-vl":
            save_parts(family, folder)
            return
    made.save_pretrained(folder)


def save_parts(family: str, folder: Path) -> None:
    if family == "qwen2.5-vl":
        pictures, token, settings = transformers.Qwen2VLImageProcessorPil(), "<|image_pad|>", {}
        words = tokenizer()
        token = f"<|vision_start|>{token}<|vision_end|>"
    else:
        sizes = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 28}}
        pictures = getattr(
            transformers, f"{'SmolVLM' if family == 'smolvlm' else 'Idefics3'}ImageProcessorPil"
        )(**sizes)
        words, token, settings = tokenizer(), "<image>", {"image_seq_len": 4}
    pictures.save_pretrained(folder)
    words.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(CHAT.replace("IMAGE", token))


def save(family: str, folder: Path) -> Path:
    """Write the family's tiny model to `folder`, whole."""
    torch.manual_seed(0)
    model = {**MODELS, **STRANGERS}[family]()
    with torch.no_grad():
        for parameter in (
            model.parameters()
        ):  # far from the tiny initial weights, with which every latent looks alike
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(folder)
    save_processor(family, folder)
    return folder


# --- policies

TEXTS = ["open the door", "close the red drawer to the right", "push puck"]
LORA = LoRAConfig(rank=2)
Folders = Callable[[str], Path]
Policies = Callable[[str], VLAPolicy]


def policy_of(
    folder: Path, *, image_size: int = 64, lora: LoRAConfig = LORA, **config: Any
) -> VLAPolicy:
    model = ModelConfig(vlm=str(folder), lora=lora, head_hidden=16, **config)
    return build_policy(model, action_dim=4, image_size=image_size).eval()


def pictures(side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
