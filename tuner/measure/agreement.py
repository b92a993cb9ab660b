"""Whether a configuration answers as the one in use does: greedy decoding of fixed prompts, token by token.

After the first token that differs two texts have little in common, however alike the models are. So the candidate is
led along the reference: where it would have said something else that counts once, and it goes on from the reference's
token. `token_agreement` is the share of the reference's tokens that the candidate chose itself; `logprob_gap_mean` the
mean distance (nats) of the log probabilities the two give to those.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.model.ports import StopSignal
from controlplane.model.tuning import Verdict
from controlplane.model.tuning_job import TuningSpec
from tuner.measure.definitions import Metrics
from tuner.measure.engine.serving import NotServing
from tuner.measure.http import ask
from tuner.measure.loadgen.run import Stopped

METRICS = ("token_agreement", "logprob_gap_mean")
PROMPTS, PROMPT_TOKENS, TOKENS = 16, 64, 32
# A change of prompts or of the way to count is another quantity.
_VERSION = "agreement-1"
_LOW_ID, _HIGH_ID = 300, 4000  # as the load generator's: special tokens of common vocabularies lie outside
_ANSWER_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class Answered:
    """Tokens that the engine chose, and the log probability of each where it says so."""

    ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]


Reference = tuple[Answered, ...]


@dataclass(frozen=True, slots=True)
class Decoder:
    """Greedy decoding on a ready engine, one request at a time: nothing else shares its batches."""

    host: str
    port: int
    model: str
    stop: StopSignal
    api_key: str = ""
    timeout_s: float = 120.0

    def reference(self) -> Reference:
        """What this engine answers to the fixed prompts. Raises NotServing, Stopped."""
        return tuple(self.decode(prompt, TOKENS) for prompt in prompts())

    def agreement(self, reference: Reference) -> Metrics:
        """How far this engine agrees. Raises NotServing, Stopped."""
        same, gaps = 0, []
        for prompt, expected in zip(prompts(), reference, strict=True):
            at = 0
            while at < len(expected.ids):
                found = self.decode([*prompt, *expected.ids[:at]], len(expected.ids) - at)
                alike = 0
                while alike < len(found.ids) and found.ids[alike] == expected.ids[at + alike]:
                    mine, theirs = found.logprobs[alike], expected.logprobs[at + alike]
                    if mine is not None and theirs is not None:
                        gaps.append(abs(mine - theirs))
                    alike += 1
                same += alike
                at += alike + 1  # the token that differs, if one does, is taken from the reference
        total = sum(len(expected.ids) for expected in reference)
        return {
            "token_agreement": same / total,
            "logprob_gap_mean": math.fsum(gaps) / len(gaps) if gaps else None,
        }

    def decode(self, prompt: Sequence[int], tokens: int) -> Answered:
        """Raises NotServing where the answer has no token ids or another length; Stopped."""
        if self.stop.is_set():
            raise Stopped
        body = {
            "model": self.model, "prompt": list(prompt), "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True, "logprobs": 0,
        }  # fmt: skip
        try:
            choice = self._post(body)["choices"][0]
            ids = choice.get("token_ids")
            said = (choice.get("logprobs") or {}).get("token_logprobs") or [None] * tokens
            logprobs = tuple(None if one is None else float(one) for one in said)
            if ids is None:
                raise NotServing(
                    Verdict.INFRASTRUCTURE, "agreement with the configuration in use cannot be measured: the engine "
                    "does not return token ids; leave mayChangeOutput empty",
                )  # fmt: skip
            if any(one is not None and not math.isfinite(one) for one in logprobs):
                raise NotServing(Verdict.INVALID, "log probabilities that are no numbers")
            if len(ids) != tokens or len(logprobs) != tokens:
                raise NotServing(Verdict.INVALID, f"an answer of {len(ids)} tokens where {tokens} were asked for")
            return Answered(tuple(int(one) for one in ids), logprobs)
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            IndexError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            raise NotServing(
                Verdict.INVALID, f"no answer for agreement: {type(error).__name__}: {error}"[:500]
            ) from error

    def _post(self, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        status, text = ask(
            "POST", self.host, self.port, "/v1/completions", timeout_s=self.timeout_s, body=json.dumps(body).encode(),
            headers=headers, most_bytes=_ANSWER_BYTES_MAX,
        )  # fmt: skip
        if status != 200:
            # As under load: a server that has too much to do says nothing of its configuration, one that fails does.
            verdict = Verdict.INVALID if status in (429, 503) else Verdict.INFEASIBLE
            raise NotServing(verdict, f"the engine failed alone with one request: HTTP {status}: {text[:300]!r}")
        said: dict[str, Any] = json.loads(text)
        return said


def is_measured(spec: TuningSpec) -> bool:
    """Whether the job searches something that can change answers."""
    return spec.space is not None and any(one.changes_output for one in spec.space.parameters)


def prompts() -> list[list[int]]:
    """The same in every process."""
    rng = random.Random(_VERSION)
    return [[rng.randrange(_LOW_ID, _HIGH_ID) for _ in range(PROMPT_TOKENS)] for _ in range(PROMPTS)]


def weights_of(model: str) -> list[tuple[str, int, int]]:
    """A model's path and, where it lies on this machine, its files' sizes and times: another file is another model."""
    path = Path(model)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = [(model, 0, 0)]
    for file in files:
        with contextlib.suppress(OSError):
            status = file.stat()
            found.append((file.name, status.st_size, status.st_mtime_ns))
    return found


def reference_key(facts: Mapping[str, Any]) -> str:
    """Names the reference of a configuration on a machine."""
    text = json.dumps({"version": _VERSION, **facts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def as_text(reference: Reference) -> str:
    """About 15 kB."""
    return json.dumps([[one.ids, one.logprobs] for one in reference])


def from_text(text: str) -> Reference | None:
    """None where it is none."""
    with contextlib.suppress(ValueError, TypeError, OverflowError, RecursionError):
        found = tuple(
            Answered(tuple(map(int, ids)), tuple(None if one is None else float(one) for one in logprobs))
            for ids, logprobs in json.loads(text)
        )
        whole = len(found) == PROMPTS and all(len(one.ids) == len(one.logprobs) == TOKENS for one in found)
        if whole and all(value is None or math.isfinite(value) for one in found for value in one.logprobs):
            return found
    return None


def kept(folder: Path, key: str) -> Reference | None:
    """A reference that was decoded here before; None where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        return from_text((folder / f"reference-{key}.json").read_text())
    return None


def keep(folder: Path, key: str, reference: Reference) -> None:
    """Whole or not at all; a full disk costs no more than the next start."""
    path = folder / f"reference-{key}.json"
    partial = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        partial.write_text(as_text(reference))
        partial.replace(path)
