"""Agreement with the configuration in use: counted token by token, decoded once per machine, and only where needed."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from controlplane.model.errors import InvalidSpec
from controlplane.model.tuning import Outcome, Verdict
from controlplane.model.tuning_job import TuningSpec
from controlplane.tuning_jobs import AGREEMENT, completed
from tests.unit.tuner.measure.test_runner import measure, runner, spec
from tuner.measure.agreement import METRICS, PROMPTS, TOKENS, Answered, Decoder, kept, prompts
from tuner.measure.engine.serving import NotServing

SPACE = {
    "parameters": [{"kind": "choice", "name": "inferencePrecision", "values": ["f32", "bf16"], "changesOutput": True}]
}


def changing(**fields: Any) -> TuningSpec:
    body = spec().model_dump() | {"space": SPACE, "may_change_output": ["inferencePrecision"], **fields}
    return TuningSpec.model_validate(body)


def references(folder: Path) -> list[Path]:
    return sorted(folder.glob("reference-*.json"))


def test_a_setting_that_answers_otherwise_shows_it(tmp_path: Path) -> None:
    who = runner(tmp_path)
    alike = measure(who, changing(), {"inferencePrecision": "f32"})
    assert alike.verdict is Verdict.OK and alike.measurement is not None, alike.reason
    assert alike.measurement.metrics["token_agreement"] == 1.0
    assert alike.measurement.metrics["logprob_gap_mean"] == 0.0
    (reference,) = references(tmp_path)
    written = reference.stat().st_mtime_ns
    other = measure(who, changing(), {"inferencePrecision": "bf16"})
    assert other.measurement is not None
    # One in ten of the reference's tokens is another one, and each counts once.
    agreed = share(other)
    tens = sum(token % 10 == 0 for ids, _ in json.loads(reference.read_text()) for token in ids)
    assert agreed == pytest.approx(1 - tens / (PROMPTS * TOKENS)) and 0.8 < agreed < 0.97
    assert other.measurement.metrics["logprob_gap_mean"] == pytest.approx(0.25)
    assert reference.stat().st_mtime_ns == written and references(tmp_path) == [reference]


def test_the_configuration_in_use_is_the_reference(tmp_path: Path) -> None:
    who, job = runner(tmp_path), changing(baseline={"inferencePrecision": "bf16"})
    assert share(measure(who, job, {"inferencePrecision": "bf16"})) == 1.0
    assert share(measure(who, job, {"inferencePrecision": "f32"})) < 0.97


@pytest.mark.parametrize("value", ["NaN", "1e999", '"low"', "[]", "[" * 100_000])
def test_a_kept_reference_that_is_none_is_decoded_again(tmp_path: Path, value: str) -> None:
    """Such a value would end a comparison in the middle, or count as a distance."""
    one = [[1] * TOKENS, [-0.5] * TOKENS]
    text = json.dumps([one] * PROMPTS)
    (tmp_path / "reference-good.json").write_text(text)
    (tmp_path / "reference-bad.json").write_text(text.replace("-0.5", value, 1))
    assert kept(tmp_path, "good") is not None and kept(tmp_path, "bad") is None


def share(outcome: Outcome) -> float:
    assert outcome.measurement is not None, outcome.reason
    return outcome.measurement.metrics["token_agreement"] or 0.0


def test_nothing_is_measured_where_nothing_can_change_answers(tmp_path: Path) -> None:
    found = measure(runner(tmp_path), spec()).measurement
    assert found is not None and not set(METRICS) & set(found.metrics) and references(tmp_path) == []


def test_an_engine_without_logprobs_or_token_ids(tmp_path: Path) -> None:
    found = measure(runner(tmp_path, "--no-logprobs"), changing()).measurement
    assert found is not None and found.metrics["token_agreement"] == 1.0 and found.metrics["logprob_gap_mean"] is None
    (tmp_path / "none").mkdir()
    without = measure(runner(tmp_path / "none", "--no-token-ids"), changing())
    assert without.verdict is Verdict.INFRASTRUCTURE and "does not return token ids" in without.reason


def test_an_engine_that_dies_or_fails_when_asked(tmp_path: Path) -> None:
    measure(runner(tmp_path), changing())  # the reference is known
    dies = measure(runner(tmp_path, "--die-after", "3"), changing())
    assert dies.verdict is Verdict.INFEASIBLE and "status 1" in dies.reason
    fails = measure(runner(tmp_path, "--refuse", "no such kernel"), changing())
    assert fails.verdict is Verdict.INFEASIBLE and "no such kernel" in fails.reason
    (tmp_path / "new").mkdir()
    unknown = measure(runner(tmp_path / "new", "--refuse", "no such kernel"), changing())
    assert unknown.verdict is Verdict.INFRASTRUCTURE and "the configuration in use" in unknown.reason


@pytest.mark.parametrize(
    "text",
    ['{"choices": [{"token_ids": [1], "logprobs": {"token_logprobs": [NaN]}}]}', '{"choices": ' + "[" * 200_000, "[]"],
)
def test_an_answer_that_is_none_is_an_invalid_measurement(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoder, "_post", lambda *_: json.loads(text))
    with pytest.raises(NotServing) as caught:
        Decoder("127.0.0.1", 1, "m", threading.Event()).decode([1], 1)
    assert caught.value.verdict is Verdict.INVALID


def test_a_broken_reference_file_is_decoded_again(tmp_path: Path) -> None:
    who = runner(tmp_path)
    measure(who, changing())
    (reference,) = references(tmp_path)
    for body in ("", "[]", '[[["x"], [null]]]', json.dumps([[[1], [None]]] * PROMPTS)):
        reference.write_text(body)
        assert kept(tmp_path, reference.stem.removeprefix("reference-")) is None
    assert share(measure(who, changing())) == 1.0


class Wrong:
    """An engine that differs from the reference at given places, however it got there."""

    def __init__(self, reference: tuple[Answered, ...], places: set[tuple[int, int]]) -> None:
        self.by_prompt = {tuple(p): (i, one) for i, (p, one) in enumerate(zip(prompts(), reference, strict=True))}
        self.places, self.calls = places, 0

    def decode(self, prompt: list[int], tokens: int) -> Answered:
        self.calls += 1
        i, one = self.by_prompt[tuple(prompt[: len(prompts()[0])])]
        at = len(prompt) - len(prompts()[0])
        ids = [token + ((i, at + k) in self.places) for k, token in enumerate(one.ids[at:])]
        return Answered(tuple(ids), (None,) * tokens)


@pytest.mark.parametrize("places", [set(), {(0, 0)}, {(3, TOKENS - 1)}, {(5, 4), (5, 5), (9, 0)}])
def test_each_difference_counts_once(places: set[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    reference = tuple(Answered(tuple(range(TOKENS)), (None,) * TOKENS) for _ in range(PROMPTS))
    wrong = Wrong(reference, places)
    monkeypatch.setattr(Decoder, "decode", lambda _, prompt, tokens: wrong.decode(prompt, tokens))
    found = Decoder("127.0.0.1", 1, "m", threading.Event()).agreement(reference)
    assert found["token_agreement"] == 1 - len(places) / (PROMPTS * TOKENS)
    assert wrong.calls <= PROMPTS + len(places)


def test_a_limit_on_agreement_needs_something_that_changes_answers() -> None:
    assert frozenset(METRICS) == AGREEMENT
    body = {
        "target": {"kind": "engine", "engine": "openvino", "model": "/m"},
        "objectives": [{"metric": "output_tokens_per_s"}],
        "limits": [{"metric": "token_agreement", "atLeast": 0.99}],
    }
    with pytest.raises(InvalidSpec, match="mayChangeOutput"):
        completed(TuningSpec.model_validate(body))
    found = completed(TuningSpec.model_validate(body | {"mayChangeOutput": ["kvCachePrecision"]}))
    assert found.space is not None and any(one.changes_output for one in found.space.parameters)
