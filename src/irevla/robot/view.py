"""What a classifier sees, and that it stays the same from its images to its judgement."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from irevla.errors import UserError
from irevla.robot.settings import DetectorSettings
from irevla.storage.disk import writing
from irevla.storage.read import mapping, read_json, shaped

VIEW = "view.json"  # beside images and in a classifier's folder: the view that they are of
MISTAKES = "mistakes"  # in a classifier's folder: images of which a person said that it was wrong
USUAL = DetectorSettings().view


def check_view(
    folder: Path, view: dict[str, Any], *, missing: dict[str, Any] | None = USUAL
) -> None:
    """Raise `UserError` unless what is in `folder` is of the `view` that the settings name.

    Where it does not say, it is of `missing`; None: of any.
    """
    path = folder / VIEW
    remedy = "make the images, or the classifier, anew"
    found: Mapping[str, Any] | None = missing
    if path.exists():
        read = read_json(path, remedy=remedy)
        with shaped(path, remedy=remedy):
            found = mapping(read, "the view")
    if found is not None and found != view:
        raise UserError(
            f"{folder} is of {dict(found)}, and the settings' detector sees {view}: change the "
            "settings, or take other images"
        )


def write_view(folder: Path, view: dict[str, Any]) -> None:
    """Let a folder of images say of which view they are."""
    with writing(folder / VIEW) as aside:
        aside.write_text(json.dumps(view) + "\n")


def keep_view(images: Path, classifier: Path) -> None:
    """Let a classifier say which view its images were of."""
    if (images / VIEW).exists():
        shutil.copyfile(images / VIEW, classifier / VIEW)
