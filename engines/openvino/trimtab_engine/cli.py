"""The command line: `trimtab-engine serve` and `trimtab-engine make-model`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from trimtab_engine import __version__, rules
from trimtab_engine.errors import UsageError
from trimtab_engine.makemodel import FILE_TYPES, ModelShape, write_model

_API_KEY_VARIABLE = "TRIMTAB_API_KEY"


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status: 0 done, 1 failed, 2 the command line cannot be honoured."""
    arguments = _parser().parse_args(argv)
    try:
        return _make_model(arguments) if arguments.command == "make-model" else _serve(arguments)
    except (UsageError, OSError) as error:
        sys.stderr.write(f"trimtab-engine {arguments.command}: {error}\n")
        return 2 if isinstance(error, UsageError) else 1


def _make_model(arguments: argparse.Namespace) -> int:
    shape = ModelShape(
        hidden=arguments.hidden,
        layers=arguments.layers,
        quantization=arguments.quantization,
        vocab=arguments.vocab,
        seed=arguments.seed,
    )
    parameters = write_model(arguments.output, shape)
    size = arguments.output.stat().st_size
    print(f"{arguments.output}: {parameters / 1e6:.1f} M parameters, {size / 2**20:.1f} MiB, {shape}")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from trimtab_engine.app import AppSettings  # noqa: PLC0415 - make-model needs no server
    from trimtab_engine.cpu import inspect_host  # noqa: PLC0415
    from trimtab_engine.exchange import HttpLimits  # noqa: PLC0415
    from trimtab_engine.modelinfo import inspect_model  # noqa: PLC0415
    from trimtab_engine.openai import Limits  # noqa: PLC0415
    from trimtab_engine.serve import ServeSettings, serve  # noqa: PLC0415

    signal.signal(signal.SIGTERM, _not_started)
    host = inspect_host()
    model = inspect_model(arguments.model)
    flags = rules.EngineFlags(
        context_tokens=arguments.max_model_len,
        max_output_tokens=arguments.max_output_tokens,
        num_threads=arguments.num_threads,
        inference_precision=arguments.inference_precision,
        kv_cache_precision=arguments.kv_cache_precision,
        max_num_batched_tokens=arguments.max_num_batched_tokens,
        max_num_seqs=arguments.max_num_seqs,
        dynamic_split_fuse=arguments.dynamic_split_fuse,
        cache_size_gb=arguments.cache_size_gb,
        num_kv_blocks=arguments.num_kv_blocks,
        enable_prefix_caching=arguments.enable_prefix_caching,
        use_cache_eviction=arguments.use_cache_eviction,
        cache_eviction_start_tokens=arguments.cache_eviction_start_tokens,
        cache_eviction_recent_tokens=arguments.cache_eviction_recent_tokens,
        cache_eviction_max_tokens=arguments.cache_eviction_max_tokens,
    )
    engine = rules.resolve(flags, model, host)
    settings = ServeSettings(
        host=arguments.host,
        port=arguments.port,
        app=AppSettings(
            served_model=arguments.served_model_name or model.path.stem,
            limits=Limits(engine.context_tokens, engine.max_prompt_tokens, engine.max_output_tokens),
            max_waiting=_at_least("--max-waiting", arguments.max_waiting, 0),
            api_key=_api_key(arguments.api_key_file),
        ),
        http=HttpLimits(
            max_body_bytes=_at_least("--max-body-bytes", arguments.max_body_bytes, 1024),
            max_connections=_at_least("--max-connections", arguments.max_connections, 1),
        ),
        engine=engine,
        drain_grace_s=arguments.drain_grace,
        drain_timeout_s=arguments.drain_timeout,
        max_load_failures=_at_least("--max-load-failures", arguments.max_load_failures, 1),
        stall_timeout_s=arguments.stall_timeout,
    )
    return serve(settings, host)


def _not_started(_number: int, _frame: object) -> None:
    """SIGTERM before the server has its own handler: the first process of a container has no default one."""
    sys.exit(0)


def _at_least(flag: str, value: int, least: int) -> int:
    if value < least:
        raise UsageError(f"{flag} {value}: must be at least {least}")
    return value


def _api_key(path: Path | None) -> bytes | None:
    text = path.read_text() if path is not None else os.environ.get(_API_KEY_VARIABLE, "")
    key = text.strip()
    if path is not None and not key:
        raise UsageError(f"--api-key-file {path}: the file is empty; put the key in it, or leave the flag out")
    if not key.isascii():
        raise UsageError("the API key has characters outside ASCII, which an HTTP header cannot carry")
    return key.encode() or None


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 86400 seconds")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trimtab-engine", description="OpenAI-compatible engine for CPUs.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make-model", help="write a llama GGUF with random weights (deterministic, no download)")
    shape = ModelShape()
    make.add_argument("output", type=Path, help="the file to write")
    make.add_argument("--hidden", type=int, default=shape.hidden, help="hidden size, a multiple of 64 (%(default)s)")
    make.add_argument("--layers", type=int, default=shape.layers, help="(%(default)s)")
    make.add_argument("--quantization", default=shape.quantization, help=f"{', '.join(FILE_TYPES)} (%(default)s)")
    make.add_argument("--vocab", type=int, default=shape.vocab, help="vocabulary size in tokens (%(default)s)")
    make.add_argument("--seed", type=int, default=shape.seed, help="(%(default)s)")
    serve = commands.add_parser("serve", help="serve a model over HTTP")
    _add_server_flags(serve)
    _add_engine_flags(serve)
    return parser


def _add_server_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("server").add_argument
    add("--model", type=Path, required=True, help="a GGUF file or an OpenVINO IR folder")
    add("--served-model-name", help="the name clients use (default: the file's or folder's name)")
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=int, default=8000, help="0 takes a free one (%(default)s)")
    add("--api-key-file", type=Path, help=f"file with the key that /v1 demands (default: ${_API_KEY_VARIABLE}, if set)")
    add("--max-waiting", type=int, default=1024, help="requests that may wait before 429 is answered (%(default)s)")
    add("--max-body-bytes", type=int, default=4 << 20, help="largest request body (%(default)s)")
    add("--max-connections", type=int, default=4096, help="open client connections (%(default)s)")
    add("--drain-grace", type=_seconds, default=2.0, metavar="S", help="after SIGTERM, seconds to go on taking requests "
        "on open connections before refusing them; ends early when no connection is open (%(default)s)")  # fmt: skip
    add("--drain-timeout", type=_seconds, default=120.0, metavar="S", help="seconds accepted requests may take to "
        "finish after that (%(default)s)")  # fmt: skip
    add(
        "--max-load-failures", type=int, default=3, help="crashes while loading in a row before giving up (%(default)s)"
    )
    add("--stall-timeout", type=_seconds, default=300.0, metavar="S", help="seconds without a step while there is work "
        "before the engine process is restarted (%(default)s)")  # fmt: skip


def _add_engine_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("engine").add_argument
    switch = argparse.BooleanOptionalAction
    none = rules.EngineFlags()
    add("--max-model-len", type=int, help="context length in tokens (default: the model's)")
    add("--max-output-tokens", type=int, help="largest max_tokens of a request (default: the context length)")
    add("--num-threads", type=int, help="compute threads (default: usable CPUs by affinity and cgroup quota)")
    add("--inference-precision", default=none.inference_precision, help="f32 or bf16 (needs AMX) (%(default)s)")
    add("--kv-cache-precision", help=f"{', '.join(rules.KV_PRECISIONS)} (default: the engine's choice)")
    add("--max-num-batched-tokens", type=int, help=f"tokens per step (default: {rules.DEFAULT_BATCHED_TOKENS}; without "
        "split-fuse the context length, because a prompt is not split then)")  # fmt: skip
    add("--max-num-seqs", type=int, help="sequences per step; only with --no-dynamic-split-fuse")
    add("--dynamic-split-fuse", action=switch, default=True, help="split prompts and mix them with generation")
    add("--cache-size-gb", type=int, help=f"KV cache size, GiB (default: {rules.DEFAULT_CACHE_GB})")
    add("--num-kv-blocks", type=int, help="KV cache size in blocks of 32 tokens, instead of --cache-size-gb")
    add("--enable-prefix-caching", action=switch, default=False, help="reuse the KV blocks of equal prompt beginnings")
    add("--use-cache-eviction", action=switch, default=False, help="drop less important KV blocks of long sequences")
    add("--cache-eviction-start-tokens", type=int, default=none.cache_eviction_start_tokens, help="(%(default)s)")
    add("--cache-eviction-recent-tokens", type=int, default=none.cache_eviction_recent_tokens, help="(%(default)s)")
    add("--cache-eviction-max-tokens", type=int, default=none.cache_eviction_max_tokens, help="(%(default)s)")


if __name__ == "__main__":
    sys.exit(main())
