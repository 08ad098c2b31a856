"""irevla: improve a vision-language-action policy by trial and error, and keep what it knew.

from irevla import VLAPolicy

policy = VLAPolicy.from_pretrained("runs/quickstart")
action = policy.act(image, "open the drawer")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from irevla.models.policy import VLAPolicy as VLAPolicy

__all__ = ["VLAPolicy"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the policy class when it is first asked for: it needs torch, and the command line's
    `--help` does not."""
    if name == "VLAPolicy":
        from irevla.models.policy import VLAPolicy

        return VLAPolicy
    raise AttributeError(f"module 'irevla' has no attribute {name!r}")
