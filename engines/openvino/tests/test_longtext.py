"""Prompts over the tokeniser's own limit."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from trimtab_engine.longtext import cut_length, encode_all

LIMIT = 64


def words(text: str) -> list[int]:
    """A tokeniser that splits before spaces, one token per word, and never cuts."""
    return [hash_of(word) for word in re.findall(r" ?[^ ]+| ", text)]


def hash_of(word: str) -> int:
    return sum(ord(letter) * 31**place for place, letter in enumerate(word)) % 10_007


def cutting(text: str) -> list[int]:
    return words(text)[:LIMIT]


def test_the_limit_is_found_where_there_is_one() -> None:
    assert cut_length(cutting) == LIMIT
    assert cut_length(words) is None


@given(st.lists(st.text("abcdefg", min_size=1, max_size=9), max_size=200).map(" ".join))
def test_words_are_encoded_as_if_there_were_no_limit(text: str) -> None:
    assert encode_all(cutting, cutting, text, LIMIT) == words(text)


@given(st.text("ab ", max_size=800))
def test_nothing_is_lost_whatever_the_spaces(text: str) -> None:
    def letters(part: str) -> list[int]:
        return [ord(letter) for letter in part][:LIMIT]

    assert encode_all(letters, letters, text, LIMIT) == [ord(letter) for letter in text]


def test_special_tokens_come_once() -> None:
    def start(text: str) -> list[int]:
        return [-1, *words(text)][:LIMIT]

    found = encode_all(start, cutting, "word " * 300, LIMIT)
    assert found.count(-1) == 1 and found[0] == -1
    assert len(found) == 302  # the special token, 300 words and the last space
