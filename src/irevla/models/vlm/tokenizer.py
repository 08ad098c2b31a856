"""Words to numbers and back, on a fixed vocabulary: enough for a small model, and no text is
refused.

A known word is one token; any other is spelled in UTF-8 bytes. Capitals and repeated blanks are
dropped (`normalise`); everything else survives: `decode(encode(text)) == normalise(text)`. A blank
between two pieces is understood; `GLUE` says that there is none.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources

PAD, BOS, SEP, EOS, GLUE = range(5)  # SEP ends the prompt and starts the answer
FIRST_BYTE = 5
FIRST_WORD = FIRST_BYTE + 256
_PIECE = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_")
_SPACE = FIRST_BYTE + ord(" ")


@lru_cache(maxsize=1)
def words() -> tuple[str, ...]:
    """The vocabulary file. Its order is part of every saved model: new words go to its end."""
    text = (
        resources.files("irevla.models.vlm").joinpath("vocabulary.txt").read_text(encoding="utf-8")
    )
    return tuple(text.split())


@lru_cache(maxsize=1)
def _ids() -> dict[str, int]:
    return {word: FIRST_WORD + index for index, word in enumerate(words())}


def vocabulary_size() -> int:
    """V: special tokens, bytes and words."""
    return FIRST_WORD + len(words())


def normalise(text: str) -> str:
    """What a round trip keeps of `text`: lower case, single blanks."""
    return " ".join(text.lower().split())


@lru_cache(maxsize=65536)
def encode(text: str) -> tuple[int, ...]:
    """The tokens of `text`, without BOS, SEP or EOS.

    Cached: a suite has a handful of instructions, asked for at every step.
    """
    plain = normalise(text)
    tokens: list[int] = []
    end = 0
    for match in _PIECE.finditer(plain):
        piece = _ids().get(match[0])
        spelled = (
            (piece,)
            if piece is not None
            else tuple(FIRST_BYTE + byte for byte in match[0].encode())
        )
        tokens += _between(tokens, spelled[0], glued=match.start() == end)
        tokens += spelled
        end = match.end()
    return tuple(tokens)


def decode(tokens: Iterable[int]) -> str:
    """The inverse of `encode`. Special tokens say nothing; bytes that are not UTF-8 become
    U+FFFD."""
    text = bytearray()
    before = GLUE
    for token in tokens:
        if token in (PAD, BOS, SEP, EOS):
            continue
        if token == GLUE:
            before = GLUE
            continue
        if before != GLUE and not (_is_byte(before) and _is_byte(token)):
            text += b" "
        text += (
            bytes([token - FIRST_BYTE]) if _is_byte(token) else words()[token - FIRST_WORD].encode()
        )
        before = token
    return text.decode("utf-8", errors="replace")


def _between(tokens: list[int], after: int, *, glued: bool) -> list[int]:
    """What goes between the tokens so far and the next one.

    Two spelled words have an explicit blank, or would run together.
    """
    if not tokens:
        return []
    if _is_byte(tokens[-1]) and _is_byte(after):
        return [] if glued else [_SPACE]
    return [GLUE] if glued else []


def _is_byte(token: int) -> bool:
    return FIRST_BYTE <= token < FIRST_WORD
