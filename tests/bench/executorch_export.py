"""Exports a Llama in a GGUF file of floats as an ExecuTorch program: XNNPACK, weights of 4 bits in
groups of 32 with activations of 8 bits, embedding of 4 bits in groups of 32.
usage: executorch_export.py MODEL.gguf PROGRAM.pte
"""

import json
import pathlib
import sys
import tempfile

import gguf
import torch
from executorch.examples.models.llama.export_llama_lib import export_llama
from executorch.extension.llm.export.config.llm_config import LlmConfig

# As deep as the comparison goes.
CONTEXT = 2304

# GGUF keeps Meta's order of the rows of q and k, so names are all that differs.
NAMES = {
    "token_embd": "tok_embeddings",
    "output_norm": "norm",
    "output": "output",
    "attn_norm": "attention_norm",
    "attn_q": "attention.wq",
    "attn_k": "attention.wk",
    "attn_v": "attention.wv",
    "attn_output": "attention.wo",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
}


def meta_name(name):
    """`blk.3.attn_q.weight` as Meta's checkpoints call it."""
    *block, short, _ = name.split(".")
    return ".".join(["layers", *block[1:], NAMES[short], "weight"] if block else
                    [NAMES[short], "weight"])


def checkpoint(reader):
    weights = {
        meta_name(t.name): torch.from_numpy(t.data.copy()).float() for t in reader.tensors
    }
    weights.setdefault("output.weight", weights["tok_embeddings.weight"])
    return weights


def parameters(reader):
    def read(key):
        return reader.get_field(f"llama.{key}").contents()

    return {
        "dim": read("embedding_length"),
        "hidden_dim": read("feed_forward_length"),
        "n_layers": read("block_count"),
        "n_heads": read("attention.head_count"),
        "n_kv_heads": read("attention.head_count_kv"),
        "norm_eps": read("attention.layer_norm_rms_epsilon"),
        "rope_theta": read("rope.freq_base"),
        "vocab_size": len(reader.get_field("tokenizer.ggml.tokens").data),
    }


def configuration(directory, program):
    config = LlmConfig()
    config.base.checkpoint = str(directory / "checkpoint.pth")
    config.base.params = str(directory / "params.json")
    config.base.metadata = '{"get_bos_id": 1, "get_eos_ids": [2]}'
    config.model.use_kv_cache = True
    config.model.use_sdpa_with_kv_cache = True
    config.export.max_seq_length = CONTEXT
    config.export.max_context_length = CONTEXT
    config.export.output_name = str(program)
    config.quantization.qmode = "8da4w"
    config.quantization.group_size = 32
    config.quantization.embedding_quantize = "4,32"
    config.backend.xnnpack.enabled = True
    config.backend.xnnpack.extended_ops = True
    return config


def main():
    model, program = map(pathlib.Path, sys.argv[1:])
    reader = gguf.GGUFReader(model)
    with tempfile.TemporaryDirectory(dir=program.parent) as directory:
        directory = pathlib.Path(directory)
        torch.save(checkpoint(reader), directory / "checkpoint.pth")
        (directory / "params.json").write_text(json.dumps(parameters(reader)))
        export_llama(configuration(directory, program.resolve()))


main()
