"""The engine's pipeline without our server: the yardstick of `bench_engine`. Runs under the engine's own Python.

Reads one JSON job per line, answers with one JSON line. The driver steps the pipeline as fast as it can and keeps
`concurrency` requests in it, which is what the server does for as many waiting clients.
"""

import json
import sys
import time
from typing import Any

from trimtab_engine import backend, wire
from trimtab_engine.options import EngineOptions


def drive(pipe: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Run `prompts` with at most `concurrency` at a time; wall and CPU seconds, and seconds to each first token."""
    waiting = list(enumerate(job["prompts"]))[::-1]
    live: dict[int, list[Any]] = {}
    ttft_s: list[float] = []
    tokens = 0
    cpu_s = time.process_time()
    start_s = time.perf_counter()
    while waiting or live:
        while waiting and len(live) < job["concurrency"]:
            number, prompt = waiting.pop()
            submit = wire.Submit(number, wire.PROMPT_TOKENS, b"", job["max_tokens"], ignore_eos=True)
            config = backend.generation_config(submit, -1)
            sent_s = time.perf_counter()
            live[number] = [pipe.add_request(number, backend.prompt_tensor(prompt), config), sent_s, False]
        pipe.step()
        now_s = time.perf_counter()
        for number, entry in list(live.items()):
            handle = entry[0]
            while handle.can_read():
                for output in handle.read().values():
                    tokens += len(output.generated_ids)
                    if not entry[2]:
                        entry[2] = True
                        ttft_s.append(now_s - entry[1])
            if handle.get_status() != backend.RUNNING:
                del live[number]
    return {
        "wall_s": time.perf_counter() - start_s,
        "cpu_s": time.process_time() - cpu_s,
        "tokens": tokens,
        "ttft_s": ttft_s,
    }


def main() -> None:
    pipe = backend.build_pipeline(EngineOptions.from_json(sys.argv[1]))
    drive(pipe, {"prompts": [[5] * 16, [6]], "concurrency": 2, "max_tokens": 16})
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(drive(pipe, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
