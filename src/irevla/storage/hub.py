"""The Hugging Face Hub, and what it says where something cannot be had. huggingface_hub is imported
where it is needed alone."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from irevla.errors import UserError

LOGIN = "log in with `hf auth login` or set HF_TOKEN"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def library(why: str) -> ModuleType:
    """Return huggingface_hub. Raises `UserError`, which begins with `why`, where it is missing."""
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise UserError(f"{why}: pip install 'irevla[hub]'") from error
    return huggingface_hub


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Turn whatever goes wrong with the Hub into a `UserError`: "`what`: why, and what to do"."""
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    try:
        yield
    # HTTPError: of the library that carries the requests. OSError: the Hub's own answers, no
    # network, no token.
    except (HTTPError, HFValidationError, OSError) as error:
        raise UserError(f"{what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return why the Hub could not do it, and the remedy."""
    from huggingface_hub import errors

    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.GatedRepoError):
        return f"it is gated: ask for access on its page, then {LOGIN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such repository, or it is private: check the name, or {LOGIN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision: name a branch, a tag or a commit"
    if isinstance(error, errors.LocalTokenNotFoundError) or status == 401:
        return f"the Hub does not know you: {LOGIN}"
    if status == 403:
        return f"you may not: {LOGIN}, with a token that may write there"
    unreached = isinstance(error, errors.LocalEntryNotFoundError | ConnectionError)
    unanswered = not isinstance(error, OSError | ValueError)  # a request that got no answer
    if unreached or unanswered:
        return "the Hub cannot be reached: check the network (and HF_HUB_OFFLINE)"
    return " ".join(str(error).split())
