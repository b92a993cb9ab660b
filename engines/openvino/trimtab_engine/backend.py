"""The one door to OpenVINO GenAI: builds the pipeline and its configurations. Imported by the child process only."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trimtab_engine.options import EngineOptions
from trimtab_engine.wire import Submit

# `import openvino` reports each start to a remote statistics service and writes to $HOME unless the module that does
# it cannot be imported; openvino then uses its own stub.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import openvino as ov  # noqa: E402
import openvino_genai as genai  # noqa: E402

RUNNING = genai.GenerationStatus.RUNNING
IGNORED = genai.GenerationStatus.IGNORED
REASON_NONE = genai.GenerationFinishReason.NONE
REASON_LENGTH = genai.GenerationFinishReason.LENGTH


def build_pipeline(options: EngineOptions) -> Any:
    """Load the model. Raises RuntimeError with the engine's own words when it cannot."""
    scheduler = genai.SchedulerConfig()
    scheduler.max_num_batched_tokens = options.max_num_batched_tokens
    scheduler.dynamic_split_fuse = options.dynamic_split_fuse
    if options.max_num_seqs is not None:
        scheduler.max_num_seqs = options.max_num_seqs
    scheduler.cache_size = options.cache_size_gb
    scheduler.num_kv_blocks = options.num_kv_blocks
    scheduler.enable_prefix_caching = options.enable_prefix_caching
    scheduler.use_cache_eviction = options.use_cache_eviction
    if options.use_cache_eviction:
        scheduler.cache_eviction_config = genai.CacheEvictionConfig(
            options.cache_eviction_start_tokens,
            options.cache_eviction_recent_tokens,
            options.cache_eviction_max_tokens,
            genai.AggregationMode.NORM_SUM,
        )
    properties: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": options.num_threads,
        "INFERENCE_PRECISION_HINT": options.inference_precision,
    }
    if options.kv_cache_precision is not None:
        properties["KV_CACHE_PRECISION"] = options.kv_cache_precision
    with _openable(Path(options.model)) as model:
        return genai.ContinuousBatchingPipeline(str(model), scheduler, "CPU", properties)


@contextmanager
def _openable(model: Path) -> Iterator[Path]:
    """The model, or a short-lived copy of it in the temporary folder.

    GenAI's GGUF reader opens the file for reading and writing, though it writes nothing: a file of an image layer or of
    a read-only claim cannot be opened that way by a plain user. The copy goes once the weights are loaded.
    """
    if model.is_dir() or os.access(model, os.W_OK):
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="trimtab-model-") as folder:
        copy = Path(folder) / model.name
        shutil.copyfile(model, copy)
        yield copy


def generation_config(submit: Submit, eos_token_id: int) -> Any:
    """The engine's generation settings. Stop strings and extra stop ids are ours (child.py), not the engine's."""
    config = genai.GenerationConfig()
    config.max_new_tokens = submit.max_tokens
    config.min_new_tokens = submit.min_tokens
    config.ignore_eos = submit.ignore_eos
    if not submit.ignore_eos and eos_token_id >= 0:
        config.set_eos_token_id(eos_token_id)
    config.do_sample = submit.sample
    config.repetition_penalty = submit.repetition_penalty
    config.presence_penalty = submit.presence_penalty
    config.frequency_penalty = submit.frequency_penalty
    if submit.sample:
        config.temperature = submit.temperature
        config.top_p = submit.top_p
        config.min_p = submit.min_p
        if submit.top_k:
            config.top_k = submit.top_k
        config.rng_seed = submit.seed
    if submit.details:
        config.logprobs = 1
    return config


def prompt_tensor(token_ids: list[int]) -> Any:
    """The ids as the engine's input."""
    return ov.Tensor(np.array([token_ids], dtype=np.int64))


def ids_from_bytes(prompt: bytes) -> list[int]:
    """The int32 ids of a PROMPT_TOKENS prompt."""
    ids = array("i")
    ids.frombytes(prompt)
    return ids.tolist()


def encode_text(tokenizer: Any, text: str, *, add_special_tokens: bool) -> list[int]:
    """The ids of a text, cut at the tokeniser's limit if it has one (longtext.py)."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=add_special_tokens).input_ids.data[0].tolist()
    return ids
