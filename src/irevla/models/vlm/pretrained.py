"""The small VLM's weights in a file: those that ship with the package, and those that `irevla
pretrain` writes."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from irevla.errors import UserError
from irevla.models.picture_file import read_picture
from irevla.models.vlm.tiny import TinyVLM

SHIPPED = Path(__file__).parent / "tiny.safetensors"  # `docs/tiny-vlm.md` says what it is
FORMAT = "irevla-tiny-1"


def save_tiny(path: Path, model: TinyVLM, *, layers: int, image_size: int) -> None:
    """Write the weights, the output layer's among them, with the sizes that are needed to build the
    model again."""
    sizes = {"format": FORMAT, "width": model.width, "layers": layers, "image_size": image_size}
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    aside = path.with_name(f".{path.name}.new")
    save_file(tensors, aside, metadata={"irevla": json.dumps(sizes)})
    aside.replace(path)


def load_tiny(path: Path = SHIPPED) -> tuple[TinyVLM, int]:
    """The model in `path`, able to speak, and the side of the pictures that it reads.

    Raises `UserError` where the file is missing, damaged or another model's.
    """
    if not path.is_file():
        raise UserError(
            f"there is no file {path}: name the tiny.safetensors that `irevla pretrain` wrote"
        )
    try:
        with safe_open(path, "pt") as file:
            sizes = json.loads((file.metadata() or {}).get("irevla", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is damaged or no safetensors file ({error}); restore it"
        ) from error
    if sizes.get("format") != FORMAT:
        raise UserError(
            f"{path} holds another model's weights, not those of the small VLM ({FORMAT})"
        )
    model = TinyVLM(width=sizes["width"], layers=sizes["layers"], image_size=sizes["image_size"])
    model.load_state_dict(tensors)
    return model.eval(), sizes["image_size"]


def ask(weights: Path, image: Path, question: str) -> str:
    """The answer of the model in `weights` about the picture in the file `image`, resized to the
    model's size.

    Raises `UserError` where the file is no picture.
    """
    model, size = load_tiny(weights)
    return model.generate(torch.tensor(read_picture(image, size))[None], [question])[0]
