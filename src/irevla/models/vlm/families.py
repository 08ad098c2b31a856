"""What transformers does not say about a family of VLMs, as data.

Everything else is asked of the library: the processor's chat template, the number of image tokens,
the size and normalisation of pictures, which modules are the language and the vision tower, the
width. A family that is not listed is tried with the library's answers alone.
"""

from dataclasses import dataclass

QUESTION = "What action should the robot take to {instruction}?"


@dataclass(frozen=True)
class Family:
    """A model type of transformers."""

    prompt: str = (
        ""  # how it was trained to read a {question}, where its processor has no chat template
    )
    processor: str = ""  # the class that prepares its text, where it is not the library's own


FAMILIES = {
    "blip-2": Family(prompt="Question: {question} Answer:"),
    "florence2": Family(prompt="{question}"),  # the processor puts the picture in front
    "gemma3": Family(prompt="<start_of_image>{question}"),
    "idefics3": Family(prompt="User:<image>{question}<end_of_utterance>\nAssistant:"),
    "instructblip": Family(prompt="{question}"),
    "llava": Family(prompt="USER: <image>\n{question} ASSISTANT:"),
    "paligemma": Family(prompt="<image>answer en {question}"),
    "qwen2_5_vl": Family(
        prompt="<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{question}<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    # Its own processor asks for packages that only films need; for pictures, Idefics3's does the
    # same.
    "smolvlm": Family(
        prompt="<|im_start|>User:<image>{question}<end_of_utterance>\nAssistant:",
        processor="Idefics3Processor",
    ),
}
"""`model_type` in `config.json` -> what the library does not know."""


def question(instruction: str) -> str:
    """The question that every family is asked about a picture."""
    return QUESTION.format(instruction=instruction.strip().rstrip("."))
