import pytest
from hypothesis import given
from hypothesis import strategies as st

from irevla.models.vlm import tokenizer


@pytest.mark.parametrize(
    "text",
    [
        "open the drawer",
        "press the red button, gently.",
        "",
        "don't!",
        "zyzzyva",
        "zyzzyva qwrt-qwrt",
        "öffne é",
        "3cm a_b",
        "日本 語",
    ],
)
def test_round_trip(text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text())
def test_round_trip_of_any_text_keeps_all_but_capitals_and_blanks(text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == tokenizer.normalise(text)


def test_known_words_are_one_token_each_and_unknown_ones_are_spelled() -> None:
    assert len(tokenizer.encode("close the window")) == 3
    assert len(tokenizer.encode("zyzzyva")) == 7
    assert tokenizer.encode("Close  the WINDOW") == tokenizer.encode("close the window")


def test_every_token_is_inside_the_vocabulary_and_words_are_unique() -> None:
    assert len(set(tokenizer.words())) == len(tokenizer.words()) > 900
    assert max(tokenizer.encode(" ".join(tokenizer.words()))) < tokenizer.vocabulary_size()


def test_every_word_survives() -> None:
    assert tokenizer.encode(" ".join(tokenizer.words())) == tuple(
        range(tokenizer.FIRST_WORD, tokenizer.vocabulary_size())
    )


def test_decoding_what_no_text_encodes_to_does_not_fail() -> None:
    assert tokenizer.decode([tokenizer.BOS, tokenizer.FIRST_BYTE + 0xFF, tokenizer.EOS]) == "�"
