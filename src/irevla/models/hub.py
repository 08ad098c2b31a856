"""Policies on the Hugging Face Hub: found and fetched, described and uploaded."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from irevla.config import is_folder
from irevla.errors import UserError
from irevla.models.files import CARD, CONFIG, Description, parse, policy_folder, write_policy
from irevla.storage.checkpoint import MANIFEST
from irevla.storage.hub import REPOSITORY, in_one_line, library

TEXTS = ("*.json", "*.md")
TENSORS = "*.safetensors"
TAGS = (
    "irevla",
    "vision-language-action",
    "robotics",
    "reinforcement-learning",
    "imitation-learning",
)
CARD_TEXT = """---
{front}
---

# {name}

A vision-language-action policy: it sees an image, reads an instruction, and acts. Made with
`irevla`, which improves such a policy by trial and error and keeps what it knew (iRe-VLA).

- **Vision-language model**: {vlm}
- **In**: {seen}, uint8[{side}, {side}, 3],{state} and an instruction in English
- **Out**: {out}, each dimension in [-1, 1]

## How to load it

```python
from irevla import VLAPolicy  # pip install 'irevla[hub]'

policy = VLAPolicy.from_pretrained("{name}")
action = policy.act({image}, "open the drawer"{told})
```

{results}
"""


def locate(path: Path | str, *, revision: str = "") -> Path:
    """Return the folder with the policy's files.

    They are in `path`, a folder or a run, or are fetched from the repository of that name.

    Raises `UserError` where there is none.
    """
    folder = Path(path)
    if is_folder(folder):
        if revision:
            raise UserError(
                f"{path} is a folder and has no revision {revision}; only a repository of the Hub "
                "has"
            )
        return policy_folder(folder)
    if not REPOSITORY.fullmatch(str(path)):
        raise UserError(
            f"there is no folder {path}: name a saved policy, a checkpoint or a run's directory"
        )
    return download(str(path), revision=revision)


def download(repo: str, *, revision: str = "") -> Path:
    """Fetch the policy `repo` ("owner/name"), or what of it is not here yet; return its folder.

    First the settings, so that nothing large is fetched of what is no policy. Raises `UserError`
    where it cannot be had: not there, private or gated, no network.
    """
    hub = library(f"there is no folder {repo}; to look for it on the Hugging Face Hub")
    with in_one_line(f"there is no folder {repo}, and it cannot be had from the Hub"):
        texts = Path(
            hub.snapshot_download(repo, revision=revision or None, allow_patterns=[*TEXTS])
        )
        if not (texts / MANIFEST).is_file():
            raise UserError(
                f"{repo} on the Hub is not a policy that irevla wrote: it has no {MANIFEST}"
            )
        commit = texts.name  # what was newest a moment ago must not change in between
        return Path(hub.snapshot_download(repo, revision=commit, allow_patterns=[*TEXTS, TENSORS]))


def upload(files: Mapping[str, Any], repo: str, *, private: bool, card: str) -> str:
    """Write a policy's files and its card to the repository `repo`, which is made if need be;
    return its address.

    Raises `UserError` where it cannot be done, and where the repository holds something else, or is
    public and `private` is asked for.
    """
    check_name(repo)
    base = parse(files).base
    if base and base.is_folder:
        raise UserError(
            f"the base model is the folder {base.name}, which no one else has; train from one on "
            "the Hub"
        )
    hub = library(f"to push to {repo}")
    with tempfile.TemporaryDirectory() as scratch, in_one_line(f"cannot push to {repo}"):
        folder = Path(scratch) / "policy"
        write_policy(folder, files, card=card)
        api = hub.HfApi(library_name="irevla")
        address = str(api.create_repo(repo, private=private, exist_ok=True))
        _check_repository(api, repo, private=private)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message="A policy of irevla",
            delete_patterns=["adapter_*"],  # of an older policy; what is uploaded anew stays
        )
    return address


def check_name(repo: str) -> None:
    """Raise `UserError` unless `repo` can be the name of a repository."""
    if not REPOSITORY.fullmatch(repo):
        raise UserError(
            f"{repo!r} is no name of a repository: say OWNER/NAME, with your name or your "
            "organisation's"
        )


def _check_repository(api: Any, repo: str, *, private: bool) -> None:
    others = set(api.list_repo_files(repo)) - {".gitattributes", CARD}
    if others and MANIFEST not in others:
        raise UserError(
            f"{repo} holds other files ({min(others)}): choose a new name, or an older policy's"
        )
    if private and not api.repo_info(repo).private:
        raise UserError(
            f"{repo} exists and is public: make it private on its page, or choose a new name"
        )


def model_card(config: Mapping[str, Any], *, name: str, results: str = "") -> str:
    """Return README.md of the policy `name`, whose `config.json` is `config`.

    It says what the policy is and how to load it, and has `results` (Markdown). Its front matter
    has no licence: that is for the owner to choose.
    """
    what = parse({CONFIG: config})
    front: dict[str, Any] = {
        "library_name": "irevla",
        "pipeline_tag": "robotics",
        "tags": list(TAGS),
    }
    if what.base and not what.base.is_folder:
        front["base_model"] = what.base.name
        front["base_model_relation"] = "adapter" if what.model.lora.rank else "finetune"
    card = CARD_TEXT.format(
        front=yaml.safe_dump(front, sort_keys=False).strip(),
        name=name,
        vlm=_vlm(what),
        side=what.image_size,
        out=_out(what),
        seen=f"images of {', '.join(what.cameras)}, each" if what.cameras else "an image",
        state=f" the robot's state, float32[{what.state_dim}]," if what.state_dim else "",
        image="{" + ", ".join(f'"{name}": {name}' for name in what.cameras) + "}"
        if what.cameras
        else "image",
        told=", state" if what.state_dim else "",
        results=results.strip(),
    )
    return card.rstrip() + "\n"


def _out(what: Description) -> str:
    steps = what.model.execute
    if steps == 1:
        return f"an action, float32[{what.action_dim}]"
    return f"{steps} actions, one after the other, float32[{steps}, {what.action_dim}]"


def _vlm(what: Description) -> str:
    lora = f" and LoRA of rank {what.model.lora.rank}" if what.model.lora.rank else ""
    if what.base is None:
        return f"`{what.model.vlm}`{lora}: all of it is here"
    if lora:
        where = "adapter and heads are here, the rest is loaded from there"
    else:
        where = (
            "all weights are here, but loading them reads that model too, for its settings and its "
            "processor"
        )
    return f"`{what.base.name}` at revision `{what.base.revision}`{lora}: {where}"
