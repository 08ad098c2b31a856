"""The entry point of the command line, and its exit codes."""

import ctypes
import os
import sys
from collections.abc import Sequence

from irevla import __version__
from irevla.cli.commands import COMMANDS
from irevla.ctrl_c import ctrl_c_is_kept
from irevla.errors import UserError, unknown
from irevla.storage.disk import remedy
from irevla.storage.provenance import git_commit


def _keep_freed_memory() -> None:
    """Let glibc keep up to 128 MiB of freed memory: a training step would get it back page by page,
    which takes longer than a convolution. Elsewhere there is no such thing to set."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: its largest value
        mallopt(-1, 128 << 20)  # M_TRIM_THRESHOLD


def usage() -> str:
    """What `irevla --help` prints."""
    lines = [
        f"  {name:<9} {(command.__doc__ or '').splitlines()[0]}"
        for name, command in COMMANDS.items()
    ]
    return (
        "usage: irevla COMMAND ...\n\n"
        + "\n".join(lines)
        + "\n\n`irevla COMMAND --help` says more; `irevla --version` names version and commit."
    )


def version() -> str:
    """Return what `irevla --version` prints: what somebody who reports a fault is asked for."""
    commit = git_commit()
    return f"irevla {__version__}{commit and f' (commit {commit})'}"


BEGIN_ANEW = ("eval", "arm")  # commands that keep nothing to go on from


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit code 0: done. 2: something a person can put right, said in one line. 130:
    stopped by Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Before torch is imported: a waiting thread may spin for some microseconds, which two threads
    # on idle cores need, but not for milliseconds, which on a busy machine starves the one that it
    # waits for.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    _keep_freed_memory()
    try:
        if not words or words[0] in ("-h", "--help"):
            print(usage())
            return 0
        if words == ["--version"]:
            print(version())
            return 0
        if words[0] not in COMMANDS:
            raise unknown("command", words[0], COMMANDS)
        with ctrl_c_is_kept():
            COMMANDS[words[0]](words[1:])
    except BrokenPipeError:  # the reader of our output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UserError as error:
        return _say(str(error))
    except OSError as error:  # a full disk, a name that is too long: not ours to mend
        place = f"{error.filename}: " if error.filename else ""
        return _say(f"{place}{error.strerror or error}; {remedy(error)}")
    except KeyboardInterrupt:
        goes_on = "" if words[0] in BEGIN_ANEW else "; the same command goes on from here"
        print(f"irevla: stopped{goes_on}", file=sys.stderr)
        return 130
    return 0


def _say(what: str) -> int:
    """Print it in one line, whatever is in it; return the exit code."""
    line = " ".join(what.splitlines())
    print("irevla: " + line.encode(errors="replace").decode(), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
