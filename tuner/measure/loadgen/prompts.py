"""Prompts that no run has sent before: token ids drawn from the run's seed and the request's number."""

from __future__ import annotations

import json
import random

from tuner.measure.loadgen.job import LoadJob


def prompt(job: LoadJob, number: int, tokens: int) -> list[int]:
    """The same for the same seed and number, in any process. The first `shared_prefix` ids are the run's own, so that
    requests of a run share them and runs do not."""
    shared = min(job.shared_prefix, tokens)
    head = _draw(job, f"{job.seed}:prefix", shared)
    return head + _draw(job, f"{job.seed}:{number}", tokens - shared)


def _draw(job: LoadJob, key: str, tokens: int) -> list[int]:
    if not tokens:
        return []
    # A text seed is hashed with SHA-512: neighbouring seeds share nothing. One draw of bits is 30 times quicker than
    # a call per id; the modulo's bias (span of thousands in 32 bits) is below 1e-6.
    bits = random.Random(key).getrandbits(32 * tokens).to_bytes(4 * tokens, "little")
    span = job.high_id - job.low_id
    return [job.low_id + int.from_bytes(bits[i : i + 4], "little") % span for i in range(0, 4 * tokens, 4)]


def request_bytes(job: LoadJob, index: int) -> bytes:
    """The whole HTTP request."""
    _, prompt_tokens, output_tokens = job.requests[index]
    number = job.numbers[index] if job.numbers else index
    body = json.dumps(
        {
            "model": job.model,
            "prompt": prompt(job, number, prompt_tokens),
            "max_tokens": output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        separators=(",", ":"),
    ).encode()
    head = f"POST {job.path} HTTP/1.1\r\nHost: {job.host}:{job.port}\r\nContent-Type: application/json\r\n"
    if job.api_key:
        head += f"Authorization: Bearer {job.api_key}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
