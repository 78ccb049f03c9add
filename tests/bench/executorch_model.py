"""Exports a model of the comparison for ExecuTorch: 8da4w, groups of 32, XNNPACK.
usage: executorch_model.py MODEL-f16.gguf MODEL-8da4w.pte

GGUF keeps queries and keys in the order that Meta's checkpoints have, which are what ExecuTorch's
exporter reads.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import torch

# Tensors of a file and of a block, by GGUF's names.
TENSORS = {"token_embd": "tok_embeddings", "output_norm": "norm", "output": "output"}
BLOCK = {
    "attn_norm": "attention_norm",
    "attn_q": "attention.wq",
    "attn_k": "attention.wk",
    "attn_v": "attention.wv",
    "attn_output": "attention.wo",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_down": "feed_forward.w2",
    "ffn_up": "feed_forward.w3",
}
# Prompts of 2048 tokens, and what is decoded after them.
CONTEXT = 2304


def checkpoint_name(name):
    parts = name.removesuffix(".weight").split(".")
    if parts[0] == "blk":
        return f"layers.{parts[1]}.{BLOCK[parts[2]]}.weight"
    return f"{TENSORS[parts[0]]}.weight"


def parameters(reader):
    def key(name):
        return reader.fields[f"llama.{name}"].contents()

    return {
        "dim": key("embedding_length"),
        "hidden_dim": key("feed_forward_length"),
        "n_layers": key("block_count"),
        "n_heads": key("attention.head_count"),
        "n_kv_heads": key("attention.head_count_kv"),
        "vocab_size": int(next(t for t in reader.tensors if t.name == "token_embd.weight").shape[1]),
        "norm_eps": key("attention.layer_norm_rms_epsilon"),
        "rope_theta": key("rope.freq_base"),
    }


def tensors(reader):
    # Factors of a scaled rotation do not matter for speed.
    said = [tensor for tensor in reader.tensors if tensor.name != "rope_freqs.weight"]
    found = {
        checkpoint_name(tensor.name): torch.from_numpy(tensor.data.astype(np.float32))
        for tensor in said
    }
    return {"output.weight": found["tok_embeddings.weight"], **found}


def options(folder, name):
    return [
        "base.model_class=llama3_2",
        f"base.checkpoint={folder / 'checkpoint.pth'}",
        f"base.params={folder / 'params.json'}",
        "model.use_kv_cache=true",
        "model.use_sdpa_with_kv_cache=true",
        "model.dtype_override=fp32",
        "model.enable_dynamic_shape=true",
        "quantization.qmode=8da4w",
        "quantization.group_size=32",
        "quantization.embedding_quantize='4,32'",
        "backend.xnnpack.enabled=true",
        "backend.xnnpack.extended_ops=true",
        f"export.max_seq_length={CONTEXT}",
        f"export.max_context_length={CONTEXT}",
        f"export.output_name={name}",
    ]


def main():
    source, to = (pathlib.Path(path).resolve() for path in sys.argv[1:])
    reader = gguf.GGUFReader(source)
    with tempfile.TemporaryDirectory(dir=to.parent) as folder:
        folder = pathlib.Path(folder)
        torch.save(tensors(reader), folder / "checkpoint.pth")
        (folder / "params.json").write_text(json.dumps(parameters(reader)))
        exporter = [sys.executable, "-m", "executorch.extension.llm.export.export_llm"]
        # It writes where it runs.
        subprocess.run(exporter + options(folder, to.name), cwd=folder, check=True)
        (folder / to.name).rename(to)


main()
