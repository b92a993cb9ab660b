"""Request bodies: what is accepted and how, what is refused and which field is blamed."""

from __future__ import annotations

import json
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_engine import wire
from trimtab_engine.errors import ApiError
from trimtab_engine.openai import Ask, Limits, parse

LIMITS = Limits(context_tokens=1000, max_prompt_tokens=999, max_tokens=500)


def ask(chat: bool = False, **body: Any) -> Ask:
    defaults = {"messages": [{"role": "user", "content": "hi"}]} if chat else {"prompt": "hi"}
    return parse(json.dumps({**defaults, **body}).encode(), chat=chat, served_model="tiny", limits=LIMITS)


def refusal(chat: bool = False, **body: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        ask(chat, **body)
    return caught.value


def test_a_plain_completion() -> None:
    found = ask(max_tokens=7, temperature=0, stop="x", seed=-1)
    assert found.submit.prompt_kind == wire.PROMPT_TEXT
    assert found.submit.prompt == b"hi"
    assert (found.submit.max_tokens, found.submit.sample, found.submit.stop) == (7, False, ("x",))
    assert found.submit.seed == 2**64 - 1
    assert not found.stream and not found.submit.details


def test_defaults_are_openais() -> None:
    assert ask().submit.max_tokens == 16
    assert ask(chat=True).submit.max_tokens == 0  # the engine process fills in what the context leaves
    assert ask().submit.sample and ask().submit.temperature == 1.0
    assert ask().submit.seed != ask().submit.seed


def test_token_ids_and_a_single_prompt_in_a_list() -> None:
    assert ask(prompt=[5, 6]).submit.prompt == array("i", [5, 6]).tobytes()
    assert ask(prompt=[[5, 6]]).submit.prompt_kind == wire.PROMPT_TOKENS
    assert ask(prompt=["text"]).submit.prompt == b"text"


def test_nulls_count_as_absent() -> None:
    names = ("max_tokens", "temperature", "stop", "seed", "n", "logprobs", "stream", "stream_options", "logit_bias")
    assert ask(**dict.fromkeys(names)).submit.max_tokens == 16


def test_chat_content_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    found = ask(chat=True, messages=[{"role": "system", "content": "s"}, {"role": "user", "content": parts}])
    assert json.loads(found.submit.prompt)[1] == {"role": "user", "content": "a\nb"}


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"prompt": None}, "prompt", "not a string"),
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": []}, "prompt", "not a string"),
        ({"prompt": ["a", "b"]}, "prompt", "2 prompts"),
        ({"prompt": [1, "b"]}, "prompt", "one prompt per request"),
        ({"prompt": [1, True]}, "prompt", "one prompt per request"),
        ({"prompt": [2**40]}, "prompt", "vocabulary"),
        ({"prompt": [1] * 1000}, "prompt", "1000 tokens; the limit is 999"),
        ({"prompt": "\ud800"}, "prompt", "lone surrogate"),
        ({"max_tokens": 0}, "max_tokens", "from 1 to 500"),
        ({"max_tokens": 501}, "max_tokens", "from 1 to 500"),
        ({"max_tokens": 1.5}, "max_tokens", "not an integer"),
        ({"max_tokens": True}, "max_tokens", "not an integer"),
        ({"max_tokens": "9"}, "max_tokens", "'9' is not an integer"),
        ({"temperature": -0.1}, "temperature", "from 0 to 100"),
        ({"temperature": "hot"}, "temperature", "not a number"),
        ({"top_p": 0}, "top_p", "from 1e-06 to 1"),
        ({"top_p": 2}, "top_p", "to 1"),
        ({"top_k": -2}, "top_k", "from -1"),
        ({"seed": 2**64}, "seed", "range"),
        ({"n": 2}, "n", "one choice per request"),
        ({"best_of": 3}, "best_of", "one choice"),
        ({"echo": True}, "echo", "not repeated"),
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        ({"logprobs": 1}, "logprobs", "must be 0"),
        ({"stop": ["a"] * 17}, "stop", "17 entries; the limit is 16"),
        ({"stop": [""]}, "stop", "empty"),
        ({"stop": ["x" * 1025]}, "stop", "1025 characters; the limit is 1024"),
        ({"stop": 5}, "stop", "not a string"),
        ({"stop_token_ids": [-1]}, "stop_token_ids", "from 0"),
        ({"stream": "yes"}, "stream", "not true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
        ({"stream": True, "stream_options": {"usage": True}}, "usage", "not a field"),
        ({"presence_penalty": 3}, "presence_penalty", "from -2 to 2"),
        ({"min_tokens": 17}, "min_tokens", "from 0 to 16"),
        ({"max_token": 5}, "max_token", "did you mean 'max_tokens'"),
        ({"messages": []}, "messages", "not a field"),
    ],
)
def test_refused_completion_fields(body: dict[str, Any], param: str, words: str) -> None:
    error = refusal(**body)
    assert error.status == 400
    assert error.param == param
    assert words in error.message


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"messages": None}, "messages", "not a non-empty list"),
        ({"messages": []}, "messages", "not a non-empty list"),
        ({"messages": ["x"]}, "messages[0]", "not an object"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "None is not a string"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "'robot' is not one of"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
            "not a text part",
        ),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"top_logprobs": 3, "logprobs": True}, "top_logprobs", "must be 0"),
        ({"max_completion_tokens": 501}, "max_completion_tokens", "from 1 to 500"),
        ({"prompt": "x"}, "prompt", "not a field"),
    ],
)
def test_refused_chat_fields(body: dict[str, Any], param: str, words: str) -> None:
    error = refusal(chat=True, **body)
    assert (error.status, error.param) == (400, param)
    assert words in error.message


def test_an_unknown_model_is_404() -> None:
    error = refusal(model="gpt-5")
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert "'tiny'" in error.message


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"5", b"\xff\xfe", b"[" * 100_000, b'{"prompt": ' + b"9" * 5000 + b"}"]
)
def test_what_is_no_json_object_is_400(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse(body, chat=False, served_model="tiny", limits=LIMITS)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")
    assert len(caught.value.message) < 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
names = st.sampled_from(
    ["prompt", "messages", "model", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stream",
     "stream_options", "logprobs", "n", "stop_token_ids", "ignore_eos", "min_tokens", "logit_bias", "tools"]
)  # fmt: skip


@given(st.dictionaries(names, json_values, max_size=6), st.booleans())
def test_any_json_is_accepted_or_refused_with_an_api_error(body: dict[str, Any], chat: bool) -> None:
    try:
        found = parse(json.dumps(body).encode(), chat=chat, served_model="tiny", limits=LIMITS)
    except ApiError as error:
        assert 400 <= error.status < 500
    else:
        wire.encode_submit(found.submit)  # whatever was accepted fits the wire
