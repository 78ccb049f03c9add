"""Writes a checkpoint of random weights in the shape of a model, twice: as a Hugging Face directory
(SHAPE-hf, float16) and as a GGUF file (SHAPE-f16.gguf) of the same numbers.
usage: random_model.py SHAPE DIR

Speed depends on shapes, not on what the weights say. The vocabulary is a dummy: bytes, then made-up
pieces, so prompts must be given as tokens. RoPE scaling is left out, and the context is 4096, so
that every depth of the comparison fits.
"""

import json
import pathlib
import sys

import gguf
import numpy as np
from safetensors.numpy import save_file

# Published configurations: MobileLLM (arXiv 2402.14905, table 9), Llama 3.2 (its config.json).
SHAPES = {
    "mobilellm-125m": dict(hidden=576, ffn=1536, blocks=30, heads=9, kv_heads=3, vocab=32000),
    "mobilellm-350m": dict(hidden=960, ffn=2560, blocks=32, heads=15, kv_heads=5, vocab=32000),
    "llama-3.2-1b": dict(hidden=2048, ffn=8192, blocks=16, heads=32, kv_heads=8, vocab=128256),
}
HEAD, CONTEXT, EPS, THETA, SEED = 64, 4096, 1e-5, 10000.0, 1


def tensors(shape):
    """(Hugging Face's name, GGUF's name, dimensions) of every tensor; the head is the embedding."""
    hidden, ffn = shape["hidden"], shape["ffn"]
    q, kv = shape["heads"] * HEAD, shape["kv_heads"] * HEAD
    yield "model.embed_tokens.weight", "token_embd.weight", (shape["vocab"], hidden)
    for block in range(shape["blocks"]):
        for hf, short, size in [
            ("input_layernorm", "attn_norm", (hidden,)),
            ("self_attn.q_proj", "attn_q", (q, hidden)),
            ("self_attn.k_proj", "attn_k", (kv, hidden)),
            ("self_attn.v_proj", "attn_v", (kv, hidden)),
            ("self_attn.o_proj", "attn_output", (hidden, q)),
            ("post_attention_layernorm", "ffn_norm", (hidden,)),
            ("mlp.gate_proj", "ffn_gate", (ffn, hidden)),
            ("mlp.up_proj", "ffn_up", (ffn, hidden)),
            ("mlp.down_proj", "ffn_down", (hidden, ffn)),
        ]:
            yield f"model.layers.{block}.{hf}.weight", f"blk.{block}.{short}.weight", size
    yield "model.norm.weight", "output_norm.weight", (hidden,)


def values(size, random):
    """Norms are ones, matrices keep the size of what they multiply."""
    if len(size) == 1:
        return np.ones(size, np.float16)
    x = random.standard_normal(size, dtype=np.float32)
    return (x / np.sqrt(np.float32(size[1]))).astype(np.float16)


def write_hf(directory, shape, weights):
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float16",
        "hidden_act": "silu",
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["ffn"],
        "num_hidden_layers": shape["blocks"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"],
        "head_dim": HEAD,
        "vocab_size": shape["vocab"],
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": EPS,
        "rope_theta": THETA,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    directory.mkdir(parents=True, exist_ok=True)
    save_file({hf: w for hf, _, w in weights}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_gguf(path, name, shape, weights):
    out = gguf.GGUFWriter(path, "llama")
    out.add_name(name)
    out.add_block_count(shape["blocks"])
    out.add_context_length(CONTEXT)
    out.add_embedding_length(shape["hidden"])
    out.add_feed_forward_length(shape["ffn"])
    out.add_head_count(shape["heads"])
    out.add_head_count_kv(shape["kv_heads"])
    out.add_rope_dimension_count(HEAD)
    out.add_rope_freq_base(THETA)
    out.add_layer_norm_rms_eps(EPS)
    out.add_vocab_size(shape["vocab"])
    out.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    add_vocabulary(out, shape["vocab"])
    for _, name, w in weights:
        out.add_tensor(name, w.astype(np.float32) if w.ndim == 1 else w)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def add_vocabulary(out, vocab):
    """Byte-level BPE: three special tokens, the 256 bytes, and pieces that no text contains."""
    types = gguf.TokenType
    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [chr(0x100 + byte) for byte in range(256)]
    pair = bytes_[:2]
    pieces = ["".join(pair)] + [f"p{i}" for i in range(1, vocab - 3 - 256)]
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(special + bytes_ + pieces)
    out.add_token_types([types.CONTROL] * 3 + [types.NORMAL] * (vocab - 3))
    out.add_token_merges([" ".join(pair)])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_unk_token_id(0)
    out.add_pad_token_id(2)
    out.add_chat_template("{{ messages[0]['content'] }}")


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        sys.exit(f"usage: random_model.py SHAPE DIR; SHAPE: {', '.join(SHAPES)}")
    name, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    shape, random = SHAPES[name], np.random.default_rng(SEED)
    weights = [(hf, short, values(size, random)) for hf, short, size in tensors(shape)]
    write_hf(directory / f"{name}-hf", shape, weights)
    write_gguf(directory / f"{name}-f16.gguf", name, shape, weights)


main()
