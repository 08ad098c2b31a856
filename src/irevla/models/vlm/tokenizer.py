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
    """Return the vocabulary file. Its order is part of every saved model: new words go to its
    end."""
    file = resources.files("irevla.models.vlm").joinpath("vocabulary.txt")
    return tuple(file.read_text(encoding="utf-8").split())


@lru_cache(maxsize=1)
def _ids() -> dict[str, int]:
    return {word: FIRST_WORD + index for index, word in enumerate(words())}


def vocabulary_size() -> int:
    """Return V: special tokens, bytes and words."""
    return FIRST_WORD + len(words())


def normalise(text: str) -> str:
    """Return what a round trip keeps of `text`: lower case, single blanks.

    Half a character, as a terminal of another encoding may give, becomes a question mark.
    """
    return " ".join(text.encode(errors="replace").decode().lower().split())


@lru_cache(maxsize=65536)
def encode(text: str) -> tuple[int, ...]:
    """Return the tokens of `text`, without BOS, SEP or EOS.

    Cached: a suite has a handful of instructions, asked for at every step.
    """
    plain = normalise(text)
    tokens: list[int] = []
    end = 0
    for match in _PIECE.finditer(plain):
        spelled = _spelled(match[0])
        tokens += _between(tokens, spelled[0], glued=match.start() == end)
        tokens += spelled
        end = match.end()
    return tuple(tokens)


def _spelled(piece: str) -> tuple[int, ...]:
    """Return the token of a known word; of any other, one for each of its bytes."""
    word = _ids().get(piece)
    if word is not None:
        return (word,)
    return tuple(FIRST_BYTE + byte for byte in piece.encode())


def decode(tokens: Iterable[int]) -> str:
    """Return the inverse of `encode`.

    Special tokens say nothing; bytes that are not UTF-8 become U+FFFD.
    """
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
        if _is_byte(token):
            text.append(token - FIRST_BYTE)
        else:
            text += words()[token - FIRST_WORD].encode()
        before = token
    return text.decode("utf-8", errors="replace")


def _between(tokens: list[int], after: int, *, glued: bool) -> list[int]:
    """Return what goes between the tokens so far and the next one.

    Two spelled words have an explicit blank, or would run together.
    """
    if not tokens:
        return []
    if _is_byte(tokens[-1]) and _is_byte(after):
        return [] if glued else [_SPACE]
    return [GLUE] if glued else []


def _is_byte(token: int) -> bool:
    return FIRST_BYTE <= token < FIRST_WORD
