"""Writes a GGUF of a published shape with random Q4_0 weights, so that several programs can run the same file.

    python random_gguf.py SHAPE FILE

Every matrix is a stretch of the same random blocks, which begins elsewhere in each row; only their scale depends on the
matrix's width. Tokens have numbers for names.
"""

import struct
import sys

import numpy

# layers, width, query heads, KV heads, feed-forward width, vocabulary, context, RoPE base, tied: as in
# src/model/synthetic.rs
SHAPES = {
    "tiny": (4, 128, 4, 2, 256, 1000, 2048, 10_000.0, True),
    "smollm2-135m": (30, 576, 9, 3, 1536, 49_152, 8192, 100_000.0, True),
    "llama3.2-1b": (16, 2048, 32, 8, 8192, 128_256, 131_072, 500_000.0, True),
    "llama3-8b": (32, 4096, 32, 8, 14_336, 128_256, 8192, 500_000.0, False),
}

F32, Q4_0 = 0, 2
# A block has 32 weights of 4 bits less 8, and their scale.
BLOCK = 32
# Not a multiple of any row's blocks, so that rows differ.
PATTERN = 1_000_003
ALIGNMENT = 32


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def key(name, kind, value):
    """`kind`: a struct's letter, or "text", "texts", "ints"."""
    if kind == "texts":
        data = struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    elif kind == "ints":
        data = struct.pack("<IIQ", 9, 5, len(value)) + numpy.array(value, "<i4").tobytes()
    elif kind == "text":
        data = struct.pack("<I", 8) + text(value)
    else:
        data = struct.pack("<I" + kind, {"I": 4, "f": 6, "?": 7}[kind], value)
    return text(name) + data


def keys(shape):
    layers, width, query, kv, ffn, vocab, context, base, _ = SHAPES[shape]
    return [
        key("general.architecture", "text", "llama"),
        key("general.name", "text", f"random {shape}"),
        key("general.alignment", "I", ALIGNMENT),
        key("general.file_type", "I", 2),
        key("llama.block_count", "I", layers),
        key("llama.context_length", "I", context),
        key("llama.embedding_length", "I", width),
        key("llama.feed_forward_length", "I", ffn),
        key("llama.attention.head_count", "I", query),
        key("llama.attention.head_count_kv", "I", kv),
        key("llama.attention.layer_norm_rms_epsilon", "f", 1e-5),
        key("llama.rope.dimension_count", "I", width // query),
        key("llama.rope.freq_base", "f", base),
        key("llama.vocab_size", "I", vocab),
        key("tokenizer.ggml.model", "text", "gpt2"),
        key("tokenizer.ggml.pre", "text", "gpt-2"),
        key("tokenizer.ggml.tokens", "texts", [f"<{id}>" for id in range(vocab)]),
        key("tokenizer.ggml.token_type", "ints", [1] * vocab),
        key("tokenizer.ggml.merges", "texts", []),
        key("tokenizer.ggml.eos_token_id", "I", 0),
        key("tokenizer.ggml.add_bos_token", "?", False),
    ]


def tensors(shape):
    """Name, type, columns and rows of every tensor."""
    layers, width, query, kv, ffn, vocab, _, _, tied = SHAPES[shape]
    kv_width = width // query * kv
    yield "token_embd.weight", Q4_0, width, vocab
    for layer in range(layers):
        for name, type, cols, rows in [
            ("attn_norm", F32, width, None),
            ("attn_q", Q4_0, width, width),
            ("attn_k", Q4_0, width, kv_width),
            ("attn_v", Q4_0, width, kv_width),
            ("attn_output", Q4_0, width, width),
            ("ffn_norm", F32, width, None),
            ("ffn_gate", Q4_0, width, ffn),
            ("ffn_up", Q4_0, width, ffn),
            ("ffn_down", Q4_0, ffn, width),
        ]:
            yield f"blk.{layer}.{name}.weight", type, cols, rows
    yield "output_norm.weight", F32, width, None
    if not tied:
        yield "output.weight", Q4_0, width, vocab


def blocks(cols, nibbles):
    """The pattern with a scale that keeps activations at about one."""
    scale = numpy.float16((3 / cols) ** 0.5 / 8)
    pattern = numpy.empty(len(nibbles), [("scale", "<f2"), ("nibbles", "u1", 16)])
    pattern["scale"], pattern["nibbles"] = scale, nibbles
    return memoryview(pattern).cast("B")


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        sys.exit(f"random_gguf.py SHAPE FILE, where the shape is one of {', '.join(SHAPES)}")
    shape, path = sys.argv[1:]
    all_tensors, infos, at = list(tensors(shape)), [], 0
    sizes = []
    for name, type, cols, rows in all_tensors:
        dims = (cols,) if rows is None else (cols, rows)
        infos.append(text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type, at))
        sizes.append(4 * cols if type == F32 else cols * rows // BLOCK * 18)
        at += -(-sizes[-1] // ALIGNMENT) * ALIGNMENT
    metadata = keys(shape)
    header = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(metadata)) + b"".join(metadata + infos)
    nibbles = numpy.random.default_rng(0).integers(0, 256, (PATTERN, 16), "u1")
    patterns = {cols: blocks(cols, nibbles) for cols in {cols for _, type, cols, _ in all_tensors if type == Q4_0}}
    with open(path, "wb") as file:
        file.write(header + bytes(-len(header) % ALIGNMENT))
        for (_, type, cols, _), size in zip(all_tensors, sizes):
            if type == F32:
                file.write(numpy.ones(cols, "<f4").tobytes())
            else:
                pattern = patterns[cols]
                for start in range(0, size, len(pattern)):
                    file.write(pattern[: size - start])
            file.write(bytes(-size % ALIGNMENT))


if __name__ == "__main__":
    main()
