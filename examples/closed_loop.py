"""Clients that each keep one request open at an OpenAI-compatible endpoint; prints what they saw as one line that
`trimtab calibrate serving --data FILE --format jsonl` reads. Standard library only.

python3 examples/closed_loop.py --url http://127.0.0.1:18001 --model tiny-random-llama --clients 2 --requests 60 \
    --words 25 --output-tokens 32 --case '{"system": "cpu-x86-amx", "backend": "openvino", "tp": 1, "cores": 1}'
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import threading
import time
import urllib.parse
from statistics import fmean, quantiles

WORDS = ("trim", "tab", "rudder", "hull", "keel", "mast", "sail", "anchor", "deck", "helm")


def one_request(url: str, model: str, prompt: str, output_tokens: int) -> tuple[float, float, int, int]:
    """Time to first token and per further token in ms, prompt and output tokens."""
    where = urllib.parse.urlsplit(url)
    body = {"model": model, "prompt": prompt, "max_tokens": output_tokens, "ignore_eos": True, "stream": True}
    body["stream_options"] = {"include_usage": True}
    link = http.client.HTTPConnection(where.hostname or "", where.port, timeout=300)
    begin = time.monotonic()
    link.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = link.getresponse()
    if answer.status != 200:
        raise SystemExit(f"{answer.status}: {answer.read()[:300].decode(errors='replace')}")
    first = last = 0.0
    usage: dict[str, int] = {}
    for line in answer:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        event = json.loads(line[6:])
        usage = event.get("usage") or usage
        if event.get("choices"):
            last = time.monotonic()
            first = first or last
    link.close()
    tokens = usage["completion_tokens"]
    return 1e3 * (first - begin), 1e3 * (last - first) / max(1, tokens - 1), usage["prompt_tokens"], tokens


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--url", required=True)
    options.add_argument("--model", required=True)
    options.add_argument("--clients", type=int, required=True)
    options.add_argument("--requests", type=int, required=True)
    options.add_argument("--words", type=int, default=25, help="words of a prompt; about 64 tokens of the sample model")
    options.add_argument("--output-tokens", type=int, default=32)
    options.add_argument("--case", type=json.loads, default={}, help="further fields of the line, as JSON")
    asked = options.parse_args()
    left = list(range(asked.requests))
    seen: list[tuple[float, float, int, int]] = []

    def client() -> None:
        while left:
            draw = random.Random(left.pop())
            prompt = " ".join(draw.choice(WORDS) for _ in range(asked.words))  # no two alike: no prefix to share
            seen.append(one_request(asked.url, asked.model, prompt, asked.output_tokens))

    threads = [threading.Thread(target=client) for _ in range(asked.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ttft, tpot = [one[0] for one in seen], [one[1] for one in seen]
    line = {
        "id": f"c{asked.clients}",
        "model": asked.model,
        "isl": round(fmean(one[2] for one in seen)),
        "osl": round(fmean(one[3] for one in seen)),
        "arrivals": {"closed": asked.clients},
        "requests": len(seen),
        **asked.case,
        "measured": {
            name: {"mean": round(fmean(values), 2), "p95": round(quantiles(values, n=20)[-1], 2)}
            for name, values in (("ttft_ms", ttft), ("tpot_ms", tpot))
        },
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
