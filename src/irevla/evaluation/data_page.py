"""What is in a LeRobotDataset as one HTML page that needs nothing else: numbers and images."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from irevla.data.camera import pick
from irevla.data.dataset import Dataset, RecordedEpisode
from irevla.data.summary import SPREAD, Summary, summary_of
from irevla.evaluation.blind_data import BlindRate
from irevla.evaluation.pages import environment
from irevla.storage.disk import writing

TALLEST = 240  # pixels of an image on the page
SMALL = 128  # pixels up to which an image is kept exactly
MOST_TASKS = 60  # whose images are shown
ALIKE = 0.1  # a spread below it is worth a warning
MOMENTS = ("first", "middle", "last")


@dataclass(frozen=True)
class Strip:
    """What a camera saw in the beginning, the middle and the end of an episode."""

    camera: str
    images: tuple[str, ...]  # data URLs


@dataclass(frozen=True)
class Shown:
    """The episode of a task whose images are on the page."""

    episode: int
    success: bool | None
    strips: tuple[Strip, ...]


def write_data_page(dataset: Dataset, path: Path, blind: Sequence[BlindRate] = ()) -> Path:
    """Write what is in the dataset, and how blind replay does where it was tried, to `path`.

    Decodes three images of one episode of each task and camera. Raises `UserError` for what is
    missing or damaged, or where the packages of 'irevla[report]' are missing.
    """
    summary = summary_of(dataset)
    template = environment().get_template("data.html")
    page = template.render(
        name=dataset.root.resolve().name,
        summary=summary,
        seconds=summary.frames / summary.fps,
        notes=list(_notes(summary)),
        shown=_shown(dataset),
        moments=MOMENTS,
        most_tasks=MOST_TASKS,
        about_spread=SPREAD,
        blind=_by_instruction(blind),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as aside:
        aside.write_text(page)
    return path


def _by_instruction(blind: Sequence[BlindRate]) -> Mapping[str, Sequence[BlindRate]]:
    found: dict[str, list[BlindRate]] = {}
    for each in blind:
        found.setdefault(each.instruction, []).append(each)
    return found


def _notes(summary: Summary) -> Iterator[str]:
    """Yield what a reader should know before learning from it."""
    known = [task for task in summary.tasks if task.succeeded is not None]
    if not known:
        yield "Success is not recorded: every episode would count as a demonstration."
    failed = sum(task.episodes - (task.succeeded or 0) for task in known)
    if failed:
        yield f"Episodes that failed, and would be left out: {failed}."
    broken = [each.name for each in (*summary.actions, *summary.state) if each.not_finite]
    if broken:
        yield f"Not finite in some frames: {', '.join(broken)}. Take these episodes out."
    outside = [each.name for each in summary.actions if each.outside]
    if outside:
        yield (
            f"Actions outside −1 to 1: {', '.join(outside)}. A suite of irevla would refuse them; "
            "a gymnasium environment's YAML can say what is −1 and 1 (low, high)."
        )
    still = [each.name for each in summary.actions if each.std == 0]
    if still:
        yield f"Actions that never change: {', '.join(still)}."
    alike = [each for each in summary.tasks if each.spread is not None and each.spread < ALIKE]
    if alike:
        yield (
            f"Episodes hardly differ ({', '.join(each.instruction for each in alike)}): a replay "
            "with closed eyes may do as well as any policy."
        )


# --- Images


def _shown(dataset: Dataset) -> Mapping[str, Shown]:
    """Return, by instruction, the episode that is shown: the first that succeeded, or the first."""
    chosen = {
        instruction: next((each for each in episodes if each.success), episodes[0])
        for instruction, episodes in list(dataset.by_instruction.items())[:MOST_TASKS]
    }
    wanted = [(episode, _steps(episode)) for episode in chosen.values()]
    strips: list[list[Strip]] = [[] for _ in wanted]
    for camera in dataset.info.cameras:
        images = iter(pick(dataset, camera, wanted))
        for (_, steps), own in zip(wanted, strips, strict=True):
            own.append(Strip(camera.name, tuple(_data_url(next(images)) for _ in steps)))
    return {
        instruction: Shown(episode.index, episode.success, tuple(own))
        for (instruction, episode), own in zip(chosen.items(), strips, strict=True)
    }


def _steps(episode: RecordedEpisode) -> Sequence[int]:
    last = episode.length - 1
    return (0, last // 2, last)


def _data_url(image: UInt8[np.ndarray, "_ _ 3"]) -> str:
    """Return an image as a page can hold it: exactly where it is small, else as a small JPEG."""
    drawn = Image.fromarray(image)
    kind, options = ("png", {}) if max(drawn.size) <= SMALL else ("jpeg", {"quality": 85})
    drawn.thumbnail((2 * TALLEST, TALLEST))
    file = io.BytesIO()
    drawn.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
