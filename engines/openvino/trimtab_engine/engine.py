"""The pipeline with its live requests, and the translation of what it produces into wire events."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

from trimtab_engine import backend, wire
from trimtab_engine.detok import BytePieces, StopFilter, TextPieces, WindowPieces, byte_table
from trimtab_engine.errors import ApiError
from trimtab_engine.longtext import cut_length, encode_all
from trimtab_engine.options import EngineOptions

_WARM_UP_TOKENS: Final = 8
_WARM_UP_PROMPT_TOKENS: Final = 256  # at most: a full step of prompt tokens; then single tokens are generated


class Live:
    """A request inside the engine. `ids` are the prompt's and then also the generated ones."""

    __slots__ = ("handle", "ids", "pieces", "prompt_tokens", "stop_ids", "stops", "submit")

    def __init__(self, submit: wire.Submit, handle: Any, ids: list[int], pieces: TextPieces) -> None:
        self.submit = submit
        self.handle = handle
        self.ids = ids
        self.prompt_tokens = len(ids)
        self.pieces = pieces
        self.stops = StopFilter(submit.stop)
        self.stop_ids = frozenset(submit.stop_token_ids)


class Engine:
    """The pipeline, its live requests, and the translation of its outputs into wire events."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._pipe = backend.build_pipeline(options)
        self._tokenizer = self._pipe.get_tokenizer()
        self._eos_token_id: int = self._pipe.get_config().eos_token_id
        vocabulary = self._tokenizer.get_vocab()
        self.vocab_tokens = max(vocabulary.values(), default=-1) + 1
        self._table = byte_table(vocabulary, self._tokenizer.decode)
        self._cut_length = cut_length(self._encode)
        self._live: dict[int, Live] = {}
        self._dropped = False  # a request was taken out of the engine since the last step

    def warm_up(self) -> None:
        """Run small requests so that the kernels are compiled before the first client waits for them."""
        options = self._options
        room = min(options.context_tokens, options.kv_capacity_tokens or options.context_tokens) - _WARM_UP_TOKENS
        longest = max(1, min(_WARM_UP_PROMPT_TOKENS, options.max_num_batched_tokens, room))
        for number, length in enumerate((longest, 1)):
            submit = wire.Submit(number, wire.PROMPT_TOKENS, b"", _WARM_UP_TOKENS, ignore_eos=True)
            ids = [token % self.vocab_tokens for token in range(length)]
            config = backend.generation_config(submit, self._eos_token_id)
            self._pipe.add_request(number, backend.prompt_tensor(ids), config)
        while self._pipe.has_non_finished_requests():
            self._pipe.step()

    def facts(self) -> dict[str, Any]:
        """What the parent may tell clients about the loaded model."""
        return {
            "vocab_tokens": self.vocab_tokens,
            "kv_bytes": self._pipe.get_metrics().cache_size_in_bytes,
            "byte_level": self._table is not None,
            "chat_template": bool(self._tokenizer.chat_template),
        }

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._live) or self._pipe.has_non_finished_requests()

    def submit(self, submit: wire.Submit) -> wire.Event | None:
        """Hand a request to the engine; the event of its refusal if it cannot be."""
        try:
            ids = self._prompt_ids(submit)
            if not submit.max_tokens:
                submit = self._fill_context(submit, len(ids))
            self._check_length(ids, submit)
            handle = self._add(submit, ids)
        except ApiError as error:
            return _refusal(submit.request_id, wire.FINISH_REJECTED, error.message, error.param, error.code)
        except RuntimeError as error:
            return _refusal(submit.request_id, wire.FINISH_REJECTED, _first_line(error), None, "engine_refused")
        table = self._table
        pieces = BytePieces(table) if table is not None else WindowPieces(self._tokenizer.decode)
        self._live[submit.request_id] = Live(submit, handle, ids, pieces)
        return None

    def cancel(self, request_id: int) -> None:
        """Drop a request whose client has gone; its KV blocks are free after the next step."""
        live = self._live.pop(request_id, None)
        if live is not None:
            live.handle.cancel()
            self._dropped = True

    def step(self) -> wire.Step:
        """One iteration of the engine."""
        pipe = self._pipe
        dropped, self._dropped = self._dropped, False
        pipe.step()
        if dropped:
            self._restore()
        events: list[wire.Event] = []
        ended: list[int] = []
        for request_id, live in self._live.items():
            event = self._collect(request_id, live)
            if event is not None:
                events.append(event)
                if event.finish:
                    ended.append(request_id)
        for request_id in ended:
            del self._live[request_id]
        metrics = pipe.get_metrics()
        working = bool(self._live)
        return wire.Step(
            running=metrics.scheduled_requests if working else 0,
            kv_usage=metrics.cache_usage / 100 if working else 0.0,
            kv_bytes=metrics.cache_size_in_bytes,
            events=events,
        )

    def _restore(self) -> None:
        """Give back to the engine what it gave up by mistake.

        When a step begins with a request that was just cancelled, its slot and KV blocks still count as taken; if
        nothing else could be scheduled for that reason, the engine (2026.4.1) calls it out of memory and ignores ALL
        requests. They are submitted again, with what they have generated so far as part of the prompt.
        """
        for live in self._live.values():
            if live.handle.get_status() != backend.IGNORED:
                continue
            if not self._options.dynamic_split_fuse and len(live.ids) > self._options.max_num_batched_tokens:
                continue  # it no longer fits a step as a prompt
            generated = len(live.ids) - live.prompt_tokens
            submit = live.submit
            rest = replace(
                submit,
                max_tokens=submit.max_tokens - generated,
                min_tokens=max(0, submit.min_tokens - generated),
            )
            live.handle = self._add(rest, live.ids)

    def _add(self, submit: wire.Submit, ids: list[int]) -> Any:
        config = backend.generation_config(submit, self._eos_token_id)
        return self._pipe.add_request(submit.request_id, backend.prompt_tensor(ids), config)

    def _collect(self, request_id: int, live: Live) -> wire.Event | None:
        handle = live.handle
        ids: list[int] = []
        logprobs: list[float] = []
        reason = backend.REASON_NONE
        while handle.can_read():
            for output in handle.read().values():
                ids += output.generated_ids
                if live.submit.details:
                    logprobs += output.generated_log_probs
                reason = output.finish_reason
        if not ids and reason == backend.REASON_NONE:
            return None if handle.get_status() == backend.RUNNING else self._ignored(request_id, live)
        finish = wire.RUNNING
        if reason != backend.REASON_NONE:
            finish = wire.FINISH_LENGTH if reason == backend.REASON_LENGTH else wire.FINISH_STOP
        if live.stop_ids:
            hit = next((at for at, token in enumerate(ids) if token in live.stop_ids), None)
            if hit is not None:
                del ids[hit + 1 :], logprobs[hit + 1 :]
                finish = wire.FINISH_STOP
        live.ids += ids
        text = live.stops.feed(live.pieces.feed(ids))
        if finish and not live.stops.matched:
            text += live.stops.feed(live.pieces.flush())
            text += live.stops.flush()
        if live.stops.matched:
            finish = wire.FINISH_STOP
        if finish and handle.get_status() == backend.RUNNING:
            handle.stop()
            self._dropped = True
        event = wire.Event(request_id, finish, len(ids), live.prompt_tokens, text.encode(errors="replace"))
        if live.submit.details:
            event.token_ids = tuple(ids)
            event.logprobs = tuple(logprobs)
        return event

    def _ignored(self, request_id: int, live: Live) -> wire.Event:
        return _refusal(
            request_id,
            wire.FINISH_FAILED,
            f"the KV cache cannot hold this request ({live.prompt_tokens} prompt tokens, max_tokens "
            f"{live.submit.max_tokens}); send less, or give the server a larger --num-kv-blocks or --cache-size-gb",
            "max_tokens",
            "kv_cache_too_small",
        )

    def _prompt_ids(self, submit: wire.Submit) -> list[int]:
        if submit.prompt_kind == wire.PROMPT_TOKENS:
            ids = backend.ids_from_bytes(submit.prompt)
            bad = next((token for token in ids if not 0 <= token < self.vocab_tokens), None)
            if bad is not None:
                raise ApiError(
                    400,
                    f"prompt: token id {bad} is outside the model's vocabulary of {self.vocab_tokens} tokens",
                    "invalid_value",
                    param="prompt",
                )
            return ids
        text = submit.prompt.decode()
        if submit.prompt_kind == wire.PROMPT_TEXT:
            ids = encode_all(self._encode_start, self._encode, text, self._cut_length)
            if not ids:
                raise ApiError(400, "prompt: gives no token; send some text", "invalid_value", param="prompt")
            return ids
        try:
            rendered = self._tokenizer.apply_chat_template(json.loads(text), add_generation_prompt=True)
        except RuntimeError as error:
            message = f"messages: the model's chat template refused them: {_first_line(error)}"
            raise ApiError(400, message, "invalid_value", param="messages") from error
        return encode_all(self._encode, self._encode, rendered, self._cut_length)

    def _encode_start(self, text: str) -> list[int]:
        return backend.encode_text(self._tokenizer, text, add_special_tokens=True)

    def _encode(self, text: str) -> list[int]:
        return backend.encode_text(self._tokenizer, text, add_special_tokens=False)

    def _fill_context(self, submit: wire.Submit, prompt_tokens: int) -> wire.Submit:
        """A request without a length may take what the context and the KV cache leave."""
        options = self._options
        room = min(options.max_output_tokens, options.context_tokens - prompt_tokens)
        capacity = options.kv_capacity_tokens
        if capacity is not None and not options.use_cache_eviction:
            room = min(room, capacity - prompt_tokens)
        return replace(submit, max_tokens=max(1, room))

    def _check_length(self, ids: list[int], submit: wire.Submit) -> None:
        options = self._options
        field = "messages" if submit.prompt_kind == wire.PROMPT_CHAT else "prompt"
        if len(ids) > options.max_prompt_tokens:
            why = (
                f"the context length is {options.context_tokens}"
                if options.dynamic_split_fuse
                else "with --no-dynamic-split-fuse a prompt must fit --max-num-batched-tokens"
            )
            raise ApiError(
                400,
                f"{field}: {len(ids)} tokens; the limit is {options.max_prompt_tokens} ({why})",
                "context_length_exceeded",
                param=field,
            )
        total = len(ids) + submit.max_tokens
        if total > options.context_tokens:
            raise ApiError(
                400,
                f"max_tokens: {submit.max_tokens} and {len(ids)} prompt tokens make {total}; the context length is "
                f"{options.context_tokens}, so max_tokens may be at most {options.context_tokens - len(ids)}",
                "context_length_exceeded",
                param="max_tokens",
            )
        capacity = options.kv_capacity_tokens
        if capacity is not None and total > capacity and not options.use_cache_eviction:
            raise ApiError(
                400,
                f"max_tokens: {submit.max_tokens} and {len(ids)} prompt tokens make {total}; the KV cache holds "
                f"{capacity} (--num-kv-blocks {options.num_kv_blocks}); send less or give the server more blocks",
                "kv_cache_too_small",
                param="max_tokens",
            )


def _refusal(request_id: int, finish: int, message: str, param: str | None, code: str) -> wire.Event:
    text = json.dumps({"message": message, "param": param, "code": code}).encode()
    return wire.Event(request_id, finish, 0, 0, text)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
