"""The HTML pages: one way to make them, and what they have in common."""

from typing import TYPE_CHECKING

from irevla.errors import UserError

if TYPE_CHECKING:
    import jinja2


def environment() -> "jinja2.Environment":
    """Return what renders the templates. Raises `UserError` where jinja2 is missing."""
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise UserError("a page needs jinja2: pip install 'irevla[report]'") from error
    return jinja2.Environment(
        loader=jinja2.PackageLoader("irevla.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
