"""Measures Hugging Face transformers in PyTorch: a full cache, random weights in the shape of a published model.

    python transformers.py [--shape llama2-13b] [--batch 32] [--prompt-tokens 512] [--max-tokens 256] [--runs 2] [--json]

This is the baseline that PyramidInfer's paper calls Accelerate: f16 on a CUDA device, greedy, with every row in the
cache. Without such a device it runs in f32 on the CPU, which only the shape `tiny` is made for.

prefill  prompt tokens of all sequences / time to having every first token
decode   new tokens of all sequences after the first ones / the time they took
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

# This file has the library's name, and Python looks beside the script first.
sys.path = [path for path in sys.path if pathlib.Path(path).resolve() != pathlib.Path(__file__).resolve().parent]

import torch
from transformers import LlamaConfig, LlamaForCausalLM, __version__ as version

# layers, width, query heads, KV heads, feed-forward width, vocabulary, RoPE base, tied
SHAPES = {
    "tiny": (4, 128, 4, 2, 256, 1000, 10_000.0, True),
    "llama2-7b": (32, 4096, 32, 32, 11_008, 32_000, 10_000.0, False),
    "llama3-8b": (32, 4096, 32, 8, 14_336, 128_256, 500_000.0, False),
    "llama2-13b": (40, 5120, 40, 40, 13_824, 32_000, 10_000.0, False),
}


def synthetic(shape, device, dtype, context):
    layers, width, query, kv, ffn, vocab, base, tied = SHAPES[shape]
    config = LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=query,
        num_key_value_heads=kv,
        intermediate_size=ffn,
        vocab_size=vocab,
        rope_theta=base,
        tie_word_embeddings=tied,
        max_position_embeddings=max(context, 4096),
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


@torch.inference_mode()
def run(model, prompts, new_tokens, wait):
    """One prompt for each sequence and `new_tokens` more, greedily; nothing ends an answer early."""
    wait()
    start = time.perf_counter()
    # Of a prompt only the last row's logits are wanted, as `generate` has it.
    out = model(prompts, use_cache=True, logits_to_keep=1)
    ids = out.logits[:, -1].argmax(-1, keepdim=True)
    wait()
    first = time.perf_counter()
    for _ in range(new_tokens - 1):
        out = model(ids, past_key_values=out.past_key_values, use_cache=True)
        ids = out.logits[:, -1].argmax(-1, keepdim=True)
    wait()
    end = time.perf_counter()
    batch, tokens = prompts.shape
    return {
        "prefill_tokens_per_second": batch * tokens / (first - start),
        "decode_tokens_per_second": batch * (new_tokens - 1) / (end - first) if new_tokens > 1 else None,
        "ms_per_token": 1e3 * (end - first) / (new_tokens - 1) if new_tokens > 1 else None,
        "time_to_first_token_seconds": first - start,
        "seconds": end - start,
        "new_tokens_per_second": batch * new_tokens / (end - start),
    }


def main():
    def count(text):
        value = int(text)
        if value < 1:
            raise argparse.ArgumentTypeError("a whole number from 1")
        return value

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="llama2-13b")
    parser.add_argument("--batch", type=count, default=32)
    parser.add_argument("--prompt-tokens", type=count, default=512)
    parser.add_argument("--max-tokens", type=count, default=256)
    parser.add_argument("--runs", type=count, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.float16) if cuda else ("cpu", torch.float32)
    wait = torch.cuda.synchronize if cuda else lambda: None
    model = synthetic(args.shape, device, dtype, args.prompt_tokens + args.max_tokens)
    vocab = model.config.vocab_size
    # The same tokens as `benben bench`: any would do.
    prompts = torch.tensor(
        [[(1000 + 7 * (i + 61 * s) % 4096) % vocab for i in range(args.prompt_tokens)] for s in range(args.batch)],
        device=device,
    )
    run(model, prompts, 2, wait)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    runs = [run(model, prompts, args.max_tokens, wait) for _ in range(args.runs)]

    median = {
        name: None if value is None else statistics.median(each[name] for each in runs)
        for name, value in runs[0].items()
    }
    config = model.config
    row = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize
    report = {
        "program": f"transformers {version}, PyTorch {torch.__version__}",
        "model": f"synthetic {args.shape}",
        "weights": str(dtype).removeprefix("torch."),
        "weight_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        "adapter": torch.cuda.get_device_name() if cuda else "CPU",
        "attention": config._attn_implementation,
        "time": int(time.time()),
        "cells": [
            {
                "batch": args.batch,
                "prompt_tokens": args.prompt_tokens,
                "new_tokens": args.max_tokens,
                "cache": "full",
                "outcome": "measured",
                **median,
                "kv_bytes": args.batch * (args.prompt_tokens + args.max_tokens - 1) * row,
                "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
                "runs": args.runs,
            }
        ],
    }
    if args.json:
        print(json.dumps(report, indent=2))
        return
    print(f"{report['model']}, {report['weights']}, {report['program']} on {report['adapter']}")
    print(f"{args.batch} x {args.prompt_tokens} prompt tokens, {args.max_tokens} new; median of {args.runs}")
    for name, value in median.items():
        print(f"  {name:<30}{value if value is None else round(value, 2)}")


if __name__ == "__main__":
    main()
