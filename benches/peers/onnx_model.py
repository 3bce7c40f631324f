"""Writes the weights of a GGUF file as ONNX, in the layout that transformers.js loads, and lets onnxruntime check them.

    pip install numpy gguf onnx onnxruntime tokenizers
    python onnx_model.py MODEL.gguf FOLDER [--prompt TEXT] [--max-tokens 16]

FOLDER gets config.json, the tokenizer's files and two graphs of the operators that published models consist of
(GroupQueryAttention, SkipSimplifiedLayerNormalization, MatMulNBits):

    onnx/model.onnx      f32, the dequantised weights exactly
    onnx/model_q4.onnx   4 bits in blocks of 32 where the file has 4 bits: rounded a second time, as MatMulNBits wants
                         a whole number for a block's zero and Q4_1 has a fraction. Matrices of 8 bits keep them.

Llama family with tied embeddings and SmolLM's tokenizer only. With --prompt both graphs continue a text greedily.
"""

import argparse
import json
import pathlib

import gguf
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BLOCK = 32


class Gguf:
    def __init__(self, path):
        self.reader = gguf.GGUFReader(path)
        self.tensors = {tensor.name: tensor for tensor in self.reader.tensors}

    def meta(self, key, default=None):
        field = self.reader.get_field(key)
        return default if field is None else field.contents()

    def weights(self, name):
        """f32 [rows, columns], or [columns]."""
        tensor = self.tensors[name]
        return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)

    def has_8_bits(self, name):
        return self.tensors[name].tensor_type == gguf.GGMLQuantizationType.Q8_0


def halves(weights, heads):
    """Undoes GGUF's order of a head's rows: rotated pairs lie half a head apart in ONNX, side by side in GGUF."""
    rows, columns = weights.shape
    return weights.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def quantised(weights, bits):
    """`weights` [rows, columns] for MatMulNBits: packed values, scales, packed zeros (None: in the middle)."""
    rows, columns = weights.shape
    blocks = weights.reshape(rows, columns // BLOCK, BLOCK)
    if bits == 8:
        scale = np.abs(blocks).max(-1) / 127
        values = np.rint(blocks / np.maximum(scale, 1e-30)[..., None]) + 128
        return values.astype(np.uint8), scale.astype(np.float32).reshape(-1), None
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    scale = np.maximum((high - low) / 15, 1e-30)
    zero = np.rint(-low / scale)
    values = np.clip(np.rint(blocks / scale[..., None]) + zero[..., None], 0, 15).astype(np.uint8)
    zero = zero.astype(np.uint8)
    if zero.shape[1] % 2:
        zero = np.pad(zero, ((0, 0), (0, 1)))
    pack = lambda nibbles: nibbles[..., 0::2] | nibbles[..., 1::2] << 4
    return pack(values), scale.astype(np.float32).reshape(-1), pack(zero).reshape(-1)


class Graph:
    """A decoder, layer by layer; `bits` is 32, or 4 for quantised matrices."""

    def __init__(self, file, bits):
        self.file, self.bits = file, bits
        self.nodes, self.constants = [], []
        size = lambda key: file.meta(f"llama.{key}")
        self.layers, self.width, self.context = size("block_count"), size("embedding_length"), size("context_length")
        self.heads, self.kv_heads = size("attention.head_count"), size("attention.head_count_kv")
        self.dim = self.width // self.heads
        self.epsilon, self.base = size("attention.layer_norm_rms_epsilon"), size("rope.freq_base")

    def constant(self, name, array):
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind, inputs, outputs, domain="com.microsoft", **attributes):
        outputs = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def matrix(self, x, name, out, permuted_heads=None):
        weights = self.file.weights(name)
        if permuted_heads:
            weights = halves(weights, permuted_heads)
        if self.bits == 32:
            # The embeddings are there already: they are the head, too.
            same = name == "token_embd.weight"
            return self.node("FusedMatMul", [x, name if same else self.constant(name, weights)], out, transB=1)
        rows, columns = weights.shape
        bits = 8 if self.file.has_8_bits(name) else 4
        parts = zip(["values", "scales", "zeros"], quantised(weights, bits))
        inputs = [self.constant(f"{name}.{part}", array) for part, array in parts if array is not None]
        attributes = {"K": columns, "N": rows, "bits": bits, "block_size": BLOCK, "accuracy_level": 4}
        return self.node("MatMulNBits", [x, *inputs], out, **attributes)

    def lengths(self):
        """Of the sequence, less one, and of the past with it: what GroupQueryAttention wants to know."""
        self.constant("one", np.array([1], np.int64))
        self.constant("second", np.array(1, np.int64))
        self.node("ReduceSum", ["attention_mask", "one"], "ones", "", keepdims=1)
        self.node("Sub", ["ones", "one"], "last", "")
        self.node("Cast", ["last"], "seqlens_k", "", to=TensorProto.INT32)
        self.node("Shape", ["attention_mask"], "mask_shape", "")
        self.node("Gather", ["mask_shape", "second"], "total", "", axis=0)
        self.node("Cast", ["total"], "total_length", "", to=TensorProto.INT32)
        turns = np.outer(np.arange(self.context), self.base ** (-np.arange(0, self.dim, 2) / self.dim))
        self.constant("cos", np.cos(turns).astype(np.float32))
        self.constant("sin", np.sin(turns).astype(np.float32))

    def layer(self, i, x):
        file, name = self.file, lambda part: f"blk.{i}.{part}.weight"
        q = self.matrix(x, name("attn_q"), f"q{i}", self.heads)
        k = self.matrix(x, name("attn_k"), f"k{i}", self.kv_heads)
        v = self.matrix(x, name("attn_v"), f"v{i}")
        past = [f"past_key_values.{i}.{part}" for part in ("key", "value")]
        present = [f"present.{i}.{part}" for part in ("key", "value")]
        sizes = {"num_heads": self.heads, "kv_num_heads": self.kv_heads, "scale": self.dim**-0.5, "do_rotary": 1}
        inputs = [q, k, v, *past, "seqlens_k", "total_length", "cos", "sin"]
        attention = self.node("GroupQueryAttention", inputs, [f"attention{i}", *present], **sizes)
        x = self.skip_norm(self.matrix(attention, name("attn_output"), f"o{i}"), name("ffn_norm"), f"middle{i}")
        gate, up = self.matrix(x, name("ffn_gate"), f"gate{i}"), self.matrix(x, name("ffn_up"), f"up{i}")
        self.node("Sigmoid", [gate], f"sigmoid{i}", "")
        self.node("Mul", [gate, f"sigmoid{i}"], f"silu{i}", "")
        self.node("Mul", [f"silu{i}", up], f"product{i}", "")
        down = self.matrix(f"product{i}", name("ffn_down"), f"down{i}")
        following = "output_norm.weight" if i + 1 == self.layers else f"blk.{i + 1}.attn_norm.weight"
        return self.skip_norm(down, following, f"end{i}")

    def skip_norm(self, x, norm, out):
        """Adds `x` to the residual stream and normalises that."""
        inputs = [self.residual, x, self.constant(norm, self.file.weights(norm))]
        outputs = [out, "", "", f"{out}.sum"]
        self.node("SkipSimplifiedLayerNormalization", inputs, outputs, epsilon=self.epsilon)
        self.residual = f"{out}.sum"
        return out

    def model(self):
        embeddings = self.file.weights("token_embd.weight")
        self.lengths()
        self.constant("token_embd.weight", embeddings)
        self.residual = self.node("Gather", ["token_embd.weight", "input_ids"], "embedded", "", axis=0)
        norm = "blk.0.attn_norm.weight"
        inputs = ["embedded", self.constant(norm, self.file.weights(norm))]
        x = self.node("SimplifiedLayerNormalization", inputs, "normed", "", axis=-1, epsilon=self.epsilon, stash_type=1)
        for i in range(self.layers):
            x = self.layer(i, x)
        self.matrix(x, "token_embd.weight", "logits")
        value, f32, i64 = helper.make_tensor_value_info, TensorProto.FLOAT, TensorProto.INT64
        cache = lambda kind, length: [
            value(f"{kind}.{i}.{part}", f32, ["batch_size", self.kv_heads, length, self.dim])
            for i in range(self.layers) for part in ("key", "value")
        ]
        # transformers.js knows an axis by its name.
        new, past, both = "sequence_length", "past_sequence_length", "total_sequence_length"
        inputs = [value("input_ids", i64, ["batch_size", new]), value("attention_mask", i64, ["batch_size", both])]
        outputs = [value("logits", f32, ["batch_size", new, len(embeddings)])]
        inputs, outputs = inputs + cache("past_key_values", past), outputs + cache("present", both)
        graph = helper.make_graph(self.nodes, "decoder", inputs, outputs, self.constants)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def config(self):
        ids = {f"{kind}_token_id": self.file.meta(f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos")}
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": self.width,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads, "head_dim": self.dim,
            "num_key_value_heads": self.kv_heads, "max_position_embeddings": self.context,
            "vocab_size": len(self.file.meta("tokenizer.ggml.tokens")), **ids,
        }


def tokenizer(file):
    """tokenizer.json and tokenizer_config.json."""
    tokens, kinds = file.meta("tokenizer.ggml.tokens"), file.meta("tokenizer.ggml.token_type")
    plain = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    special = [
        {"id": i, "content": token, "special": True, **plain}
        for i, (token, kind) in enumerate(zip(tokens, kinds)) if kind == gguf.TokenType.CONTROL
    ]
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    model = {
        "type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)},
        "merges": file.meta("tokenizer.ggml.merges"),
    }
    whole = {
        "version": "1.0", "added_tokens": special, "decoder": bytes_, "model": model,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, bytes_]},
    }
    names = {f"{kind}_token": tokens[file.meta(f"tokenizer.ggml.{kind}_token_id")] for kind in ("bos", "eos")}
    config = {
        "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "clean_up_tokenization_spaces": False,
        "chat_template": file.meta("tokenizer.chat_template"), **names,
    }
    return whole, config


def greedy(path, graph, ids, count):
    """`count` tokens after `ids`, by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    empty = np.zeros((1, graph.kv_heads, 0, graph.dim), np.float32)
    cache = {node.name: empty for node in session.get_inputs() if node.name.startswith("past")}
    said, new = [], np.array([ids], np.int64)
    while len(said) < count:
        mask = np.ones((1, len(ids) + len(said)), np.int64)
        logits, *present = session.run(None, {"input_ids": new, "attention_mask": mask, **cache})
        cache = dict(zip(cache, present))
        said.append(int(logits[0, -1].argmax()))
        new = np.array([said[-1:]], np.int64)
    return said


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--prompt")
    parser.add_argument("--max-tokens", type=int, default=16)
    options = parser.parse_args()
    file, folder = Gguf(options.model), options.folder
    if file.meta("general.architecture") != "llama" or "output.weight" in file.tensors:
        raise SystemExit("only the Llama family, and of that models whose head is their embeddings")
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    write = lambda name, value: (folder / name).write_text(json.dumps(value))
    whole, config = tokenizer(file)
    write("tokenizer.json", whole)
    write("tokenizer_config.json", config)
    graphs = {"model": Graph(file, 32), "model_q4": Graph(file, 4)}
    write("config.json", graphs["model"].config())
    write("generation_config.json", {"eos_token_id": file.meta("tokenizer.ggml.eos_token_id")})
    for name, graph in graphs.items():
        path = folder / "onnx" / f"{name}.onnx"
        onnx.save(graph.model(), path)
        print(f"{path}: {path.stat().st_size} bytes")
        if options.prompt:
            from tokenizers import Tokenizer

            words = Tokenizer.from_file(str(folder / "tokenizer.json"))
            ids = words.encode(options.prompt, add_special_tokens=False).ids
            print(f"  {words.decode(greedy(path, graph, ids, options.max_tokens))!r}")


if __name__ == "__main__":
    main()
