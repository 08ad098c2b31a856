"""The small VLM's weights in a file: those that ship with the package, and those that `irevla
pretrain` writes."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from irevla.errors import UserError
from irevla.models.image_file import read_image
from irevla.models.vlm.tiny import TinyVLM
from irevla.storage.disk import writing
from irevla.storage.read import parse_json, shaped
from irevla.types import Observation

SHIPPED = Path(__file__).parent / "tiny.safetensors"  # `docs/tiny-vlm.md` says what it is
FORMAT = "irevla-tiny-1"
HEADS = 4  # of attention


def save_tiny(path: Path, model: TinyVLM, *, layers: int, image_size: int) -> None:
    """Write the weights, the output layer's among them, and the sizes to build the model again."""
    sizes = {"format": FORMAT, "width": model.width, "layers": layers, "image_size": image_size}
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    with writing(path) as aside:
        save_file(tensors, aside, metadata={"irevla": json.dumps(sizes)})


def load_tiny(path: Path = SHIPPED) -> tuple[TinyVLM, int]:
    """Return the model in `path`, able to speak, and the side of the images that it reads.

    Raises `UserError` where the file is missing, damaged or another model's.
    """
    if not path.is_file():
        raise UserError(
            f"there is no file {path}: name the tiny.safetensors that `irevla pretrain` wrote"
        )
    try:
        with safe_open(path, "pt") as file:
            sizes = parse_json((file.metadata() or {}).get("irevla", "{}").encode(), path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is damaged or no safetensors file ({error}); restore it"
        ) from error
    if not isinstance(sizes, dict) or sizes.get("format") != FORMAT:
        raise UserError(
            f"{path} holds another model's weights, not those of the small VLM ({FORMAT})"
        )
    with shaped(path):
        own = {name: int(sizes[name]) for name in ("width", "layers", "image_size")}
        # Before anything is built: a few bytes must not take all memory.
        if own["width"] != tensors["norm.weight"].numel() or own["width"] % HEADS:
            raise ValueError(f"width {own['width']}")
        if not (1 <= own["layers"] <= 1024 and 8 <= own["image_size"] <= 4096):
            raise ValueError(f"{own}")
    model = TinyVLM(**own, heads=HEADS)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{path} holds the weights of another model; restore it") from error
    return model.eval(), own["image_size"]


def ask(weights: Path, image: Path, question: str) -> str:
    """Return the answer of the model in `weights` about the image in a file, resized to its size.

    Raises `UserError` where the file is no image.
    """
    model, size = load_tiny(weights)
    observation = Observation.of(read_image(image, size)[None], [question])
    return model.generate(observation)[0]
