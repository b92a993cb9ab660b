"""`make-model`: a llama GGUF with random weights, the same bytes for the same arguments, nothing downloaded.

The text such a model writes is noise; its shapes, memory traffic and scheduling are those of a real model, which is
what load tests, demonstrations and tuning runs need.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trimtab_engine.errors import UsageError

HEAD_SIZE: Final = 64
CONTEXT_TOKENS: Final = 4096
FILE_TYPES: Final = {"F16": 1, "Q8_0": 7, "Q4_0": 2}  # llama.cpp's LLAMA_FTYPE numbers for general.file_type
SPECIAL_TOKENS: Final = ("<unk>", "<s>", "</s>")
WEIGHT_STD: Final = 0.02  # the usual initialisation scale of llama-like models
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
# Letters by frequency in English text; pairs and triples of them become the merged tokens.
_LETTERS: Final = "etaoinshrdlcumwfgypbvk"


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What `make-model` writes. `hidden` is in elements, `vocab` in tokens."""

    hidden: int = 512
    layers: int = 8
    quantization: str = "Q8_0"
    vocab: int = 4096
    seed: int = 0

    def check(self) -> None:
        """Raise UsageError when the shape cannot be written."""
        smallest = len(SPECIAL_TOKENS) + 256
        if self.hidden < HEAD_SIZE or self.hidden % HEAD_SIZE or self.hidden > 8192:
            raise UsageError(f"--hidden {self.hidden}: must be a multiple of {HEAD_SIZE} from {HEAD_SIZE} to 8192")
        if not 1 <= self.layers <= 128:
            raise UsageError(f"--layers {self.layers}: must be from 1 to 128")
        if self.quantization not in FILE_TYPES:
            raise UsageError(f"--quantization {self.quantization}: must be one of {', '.join(FILE_TYPES)}")
        largest = smallest + len(list(_merge_pairs()))
        if not smallest <= self.vocab <= largest:
            raise UsageError(f"--vocab {self.vocab}: must be from {smallest} to {largest}")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed {self.seed}: must be from 0 to 2**63-1")


def byte_alphabet() -> list[str]:
    """The 256 printable characters that byte-level BPE uses for the bytes 0..255, in byte order (GPT-2's table)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = itertools.count(256)
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def _merge_pairs() -> Iterator[tuple[str, str]]:
    space = byte_alphabet()[ord(" ")]
    pairs = [*itertools.product(_LETTERS, _LETTERS), *((space, letter) for letter in _LETTERS)]
    yield from pairs
    yield from ((left + right, letter) for (left, right), letter in itertools.product(pairs, _LETTERS))


def vocabulary(size: int) -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-level BPE vocabulary with exactly `size` tokens."""
    tokens = [*SPECIAL_TOKENS, *byte_alphabet()]
    merges = []
    for left, right in itertools.islice(_merge_pairs(), size - len(tokens)):
        merges.append(f"{left} {right}")
        tokens.append(left + right)
    return tokens, merges


def write_model(path: Path, shape: ModelShape) -> int:
    """Write the model and return its parameter count. Raises UsageError on a bad shape, OSError on a bad path."""
    shape.check()
    import gguf  # noqa: PLC0415 - half a second of imports that `serve` does not need
    import numpy as np  # noqa: PLC0415

    hidden, feed_forward = shape.hidden, shape.hidden * 3
    heads = hidden // HEAD_SIZE
    kv_heads = max(1, heads // 2)
    tokens, merges = vocabulary(shape.vocab)
    partial = path.with_name(path.name + ".partial")
    writer = gguf.GGUFWriter(str(partial), "llama")
    writer.add_name("trimtab-random-llama")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD_SIZE)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(FILE_TYPES[shape.quantization])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i < len(SPECIAL_TOKENS) else 1 for i in range(len(tokens))])  # 3 = control
    writer.add_token_merges(merges)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)

    random = np.random.default_rng(shape.seed)
    parameters = 0

    def add(name: str, rows: int, columns: int) -> None:
        nonlocal parameters
        parameters += rows * columns
        weights: Any = random.standard_normal((rows, columns), dtype=np.float32) * np.float32(WEIGHT_STD)
        if shape.quantization == "F16":
            writer.add_tensor(name, weights.astype(np.float16))
        else:
            kind = gguf.GGMLQuantizationType[shape.quantization]
            writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)

    ones = np.ones(hidden, np.float32)
    add("token_embd.weight", len(tokens), hidden)
    writer.add_tensor("output_norm.weight", ones)
    add("output.weight", len(tokens), hidden)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        add(f"{block}.attn_q.weight", hidden, hidden)
        add(f"{block}.attn_k.weight", kv_heads * HEAD_SIZE, hidden)
        add(f"{block}.attn_v.weight", kv_heads * HEAD_SIZE, hidden)
        add(f"{block}.attn_output.weight", hidden, hidden)
        add(f"{block}.ffn_gate.weight", feed_forward, hidden)
        add(f"{block}.ffn_up.weight", feed_forward, hidden)
        add(f"{block}.ffn_down.weight", hidden, feed_forward)
        writer.add_tensor(f"{block}.attn_norm.weight", ones)
        writer.add_tensor(f"{block}.ffn_norm.weight", ones)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)  # a reader never sees half a model
    return parameters + hidden * (2 * shape.layers + 1)
