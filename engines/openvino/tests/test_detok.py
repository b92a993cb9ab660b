"""Text from token ids: UTF-8 boundaries, stop strings, and the check of the byte table."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trimtab_engine.detok import BytePieces, StopFilter, WindowPieces, byte_table

unicode_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
BYTES = [bytes([value]) for value in range(256)]


def decode_bytes(batch: list[list[int]]) -> list[str]:
    return [bytes(ids).decode(errors="replace") for ids in batch]


def cut(data: st.DataObject, length: int) -> list[tuple[int, int]]:
    cuts = sorted(data.draw(st.lists(st.integers(0, length), max_size=12)))
    return list(zip([0, *cuts], [*cuts, length], strict=True))


@given(unicode_text, st.data())
def test_pieces_join_to_the_text_and_never_split_a_character(text: str, data: st.DataObject) -> None:
    ids = list(text.encode())
    pieces = BytePieces(BYTES)
    shown = [pieces.feed(ids[start:end]) for start, end in cut(data, len(ids))]
    assert "".join(shown) + pieces.flush() == text
    so_far = ""
    for piece in shown:
        so_far += piece
        assert text.startswith(so_far)


@given(st.binary(max_size=40), st.data())
def test_bytes_that_are_no_utf8_become_replacement_characters(raw: bytes, data: st.DataObject) -> None:
    pieces = BytePieces(BYTES)
    shown = "".join(pieces.feed(list(raw[start:end])) for start, end in cut(data, len(raw)))
    assert shown + pieces.flush() == raw.decode(errors="replace")


@given(unicode_text, st.data())
def test_the_window_gives_the_same_text(text: str, data: st.DataObject) -> None:
    ids = list(text.encode())
    pieces = WindowPieces(decode_bytes)
    shown = "".join(pieces.feed(ids[start:end]) for start, end in cut(data, len(ids)) if end > start)
    assert shown + pieces.flush() == text


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.data())
def test_stop_strings_do_not_depend_on_how_the_text_is_cut(text: str, stops: list[str], data: st.DataObject) -> None:
    stop_filter = StopFilter(stops)
    shown = ""
    for start, end in cut(data, len(text)):
        shown += stop_filter.feed(text[start:end])
    shown += stop_filter.flush()
    hits = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert stop_filter.matched == bool(hits)
    assert shown == (text[: min(hits)[1]] if hits else text)


def test_an_end_that_may_become_a_stop_string_is_held_back_and_no_more() -> None:
    stop_filter = StopFilter(["STOP"])
    assert stop_filter.feed("go ST") == "go "
    assert stop_filter.feed("AY") == "STAY"
    assert stop_filter.feed("S") == ""
    assert stop_filter.flush() == "S"


def test_a_byte_level_vocabulary_gives_a_table_with_special_tokens_empty() -> None:
    vocabulary = {token: index for index, token in enumerate([b"<s>", b"a", b"\xe6", b"bc"])}
    texts = {0: b"", 1: b"a", 2: b"\xe6", 3: b"bc"}

    def decode(batch: list[list[int]]) -> list[str]:
        return [b"".join(texts[i] for i in ids).decode(errors="replace") for ids in batch]

    assert byte_table(vocabulary, decode) == [b"", b"a", b"\xe6", b"bc"]


def test_a_tokeniser_that_strips_a_leading_space_gets_no_table() -> None:
    vocabulary = {b" a": 0, b"b": 1}

    def decode(batch: list[list[int]]) -> list[str]:
        return ["".join([" a", "b"][i] for i in ids).removeprefix(" ") for ids in batch]

    assert byte_table(vocabulary, decode) is None
    pieces = WindowPieces(decode)
    assert "".join(pieces.feed([i]) for i in [0, 1, 0, 0]) == "ab a a"
