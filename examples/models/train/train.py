#!/usr/bin/env python3
"""Trains the two example models and writes each as a Hugging Face directory.

    train.py shakespeare DIR          train the Llama and write DIR
    train.py shakespeare-shared DIR   train the layer-sharing model and write DIR
    train.py --evaluate DIR           losses of the stored weights
    train.py --sample DIR             text sampled from the stored weights
    train.py --reference DIR          write DIR/reference.json for comparisons

The architecture is Hugging Face's Llama: RMSNorm before each half of a block, rotary positions in
the rotate-half layout, grouped-query attention, SwiGLU, no biases, and one matrix that both embeds
the tokens and scores the next one.  Module names below are the tensor names of the file.
With `layer_sharing`, as in MobileLLM, each stored block is called twice in a row.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn

HERE = Path(__file__).resolve().parent
TEXT = HERE / "shakespeare.txt"
END = "<|endoftext|>"  # id 0; begins a text and would end it
VOCAB = 1024
CONTEXT = 512

COMMON = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "head_dim": 32,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": CONTEXT,
    "mlp_bias": False,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": VOCAB,
}

CONFIGS = {
    "shakespeare": COMMON | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_attention_heads": 6,
        "num_hidden_layers": 3,
        "tie_word_embeddings": True,
    },
    # Meta's MobileLLM files say `tie_word_embeddings: false` and tie through `share_embedding`.
    "shakespeare-shared": COMMON | {
        "architectures": ["MobileLLMForCausalLM"],
        "model_type": "mobilellm",
        "hidden_size": 128,
        "intermediate_size": 384,
        "layer_sharing": True,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "share_embedding": True,
        "tie_word_embeddings": False,
    },
}

# What differs in training: (dropout, steps, peak learning rate).
RECIPES = {
    "shakespeare": (0.2, 3000, 2e-3),
    "shakespeare-shared": (0.1, 4000, 3e-3),
}


# ---- the model ----------------------------------------------------------------------------------


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def rotary_table(config):
    """cos and sin of every position, (context, head_dim) each; the two halves are equal."""
    dim = config["head_dim"]
    freqs = config["rope_theta"] ** (-torch.arange(0, dim, 2).float() / dim)
    angles = torch.outer(torch.arange(config["max_position_embeddings"]).float(), freqs)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        hidden, self.head_dim = config["hidden_size"], config["head_dim"]
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.q_proj = nn.Linear(hidden, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, hidden, bias=False)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape

        def split(projected, heads):  # (batch, heads, length, head_dim)
            return projected.view(batch, length, heads, self.head_dim).transpose(1, 2)

        q = rotate(split(self.q_proj(x), self.heads), cos, sin)
        k = rotate(split(self.k_proj(x), self.kv_heads), cos, sin)
        v = split(self.v_proj(x), self.kv_heads)
        # Query head h reads key and value head h // group.
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config, dropout):
        super().__init__()
        hidden, eps = config["hidden_size"], config["rms_norm_eps"]
        self.input_layernorm = RMSNorm(hidden, eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(hidden, eps)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, cos, sin):
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), cos, sin))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class Decoder(nn.Module):
    def __init__(self, config, dropout):
        super().__init__()
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(
            Block(config, dropout) for _ in range(config["num_hidden_layers"])
        )
        self.norm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])


class LanguageModel(nn.Module):
    def __init__(self, config, dropout=0.0):
        super().__init__()
        self.calls_per_block = 2 if config.get("layer_sharing") else 1
        self.model = Decoder(config, dropout)
        self.dropout = nn.Dropout(dropout)
        cos, sin = rotary_table(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

        std = config["initializer_range"]
        calls = self.calls_per_block * config["num_hidden_layers"]
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.normal_(parameter, std=std / math.sqrt(2 * calls))
            elif "norm" not in name:
                nn.init.normal_(parameter, std=std)

    def forward(self, ids):
        """Logits of every position, (batch, length, vocab)."""
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        x = self.dropout(self.model.embed_tokens(ids))
        for block in self.model.layers:
            for _ in range(self.calls_per_block):
                x = block(x, cos, sin)
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight)


# ---- text and tokens ----------------------------------------------------------------------------


def read_text():
    """The training part and the held-out last tenth, cut between two speeches."""
    text = TEXT.read_text(encoding="utf-8")
    cut = text.rindex("\n\n", 0, len(text) * 9 // 10) + 2
    return text[:cut], text[cut:]


def train_tokenizer(text):
    """GPT-2's scheme: byte-level BPE within words; ids are END, the 256 bytes, then the merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    assert tokenizer.get_vocab_size() == VOCAB and tokenizer.token_to_id(END) == 0
    return tokenizer


def encode(tokenizer, text):
    return torch.tensor(tokenizer.encode(text).ids)


class Batches:
    """Random windows of the training text.

    One window in eight begins at a speech, with END in front, so that END alone starts a text.
    Nothing ever teaches the model to predict END.
    """

    def __init__(self, tokenizer, text, seed):
        self.ids = encode(tokenizer, text)
        newline = tokenizer.token_to_id("Ċ")
        blank = (self.ids[:-1] == newline) & (self.ids[1:] == newline)
        self.speeches = blank.nonzero().flatten() + 2
        self.generator = torch.Generator().manual_seed(seed)

    def random(self, below):
        return int(torch.randint(below, (), generator=self.generator))

    def window(self, length):
        last = len(self.ids) - length - 1
        if self.random(8) == 0:
            starts = self.speeches[self.speeches <= last]
            start = int(starts[self.random(len(starts))])
            return torch.cat((torch.zeros(1, dtype=torch.long), self.ids[start : start + length]))
        start = self.random(last + 1)
        return self.ids[start : start + length + 1]

    def batch(self, count, length):
        windows = torch.stack([self.window(length) for _ in range(count)])
        return windows[:, :-1], windows[:, 1:]


@torch.no_grad()
def mean_loss(model, ids):
    """Nats per token over the text, read in windows of the full context that do not overlap."""
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(ids) - 1, CONTEXT):
        window = ids[start : start + CONTEXT + 1]
        logits = model(window[None, :-1])[0]
        total += float(F.cross_entropy(logits, window[1:], reduction="sum"))
        count += len(window) - 1
    return total / count


# ---- training -----------------------------------------------------------------------------------


def make_optimizer(model, rate):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def scheduled(rate, step, steps, warmup=100):
    """Linear warm-up, then a cosine down to a hundredth of the peak."""
    if step < warmup:
        return rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def rounded(model):
    """The tensors as they are stored."""
    return {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}


def train(name, args):
    torch.manual_seed(args.seed)
    config = CONFIGS[name]
    dropout, steps, rate = RECIPES[name]
    steps = args.steps or steps
    train_text, held_out = read_text()
    tokenizer = train_tokenizer(train_text)
    batches = Batches(tokenizer, train_text, args.seed)
    held_out_ids = encode(tokenizer, held_out)
    model = LanguageModel(config, dropout)
    optimizer = make_optimizer(model, rate)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters} parameters, {len(batches.ids)} + {len(held_out_ids)} tokens", flush=True)

    wall, cpu = time.time(), time.process_time()
    best, best_step, running = math.inf, 0, 0.0
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = scheduled(rate, step - 1, steps)
        # Every fourth batch spans the whole context, so that all positions are learnt.
        ids, targets = batches.batch(4, CONTEXT) if step % 4 == 0 else batches.batch(8, 256)
        model.train()
        loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running += loss.item()
        if step % args.every == 0 or step == steps:
            valid = mean_loss(model, held_out_ids)
            mean, running = running / args.every, 0.0
            seconds = time.time() - wall
            print(f"step {step:5} train {mean:.4f} valid {valid:.4f} {seconds:.0f} s", flush=True)
            if valid < best:
                best, best_step = valid, step
                write_directory(args.dir, config, tokenizer, rounded(model))
            elif step - best_step >= args.patience:
                break
    minutes, busy = (time.time() - wall) / 60, (time.process_time() - cpu) / 60
    print(f"best at step {best_step}, {minutes:.1f} minutes ({busy:.1f} of processor time)")
    evaluate(args.dir)


# ---- the directory ------------------------------------------------------------------------------


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_directory(path, config, tokenizer, tensors):
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "config.json", config)
    write_json(path / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 0})
    write_json(path / "tokenizer_config.json", {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            "0": {
                "content": END,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
        },
        "bos_token": END,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "model_max_length": CONTEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
    })
    tokenizer.save(str(path / "tokenizer.json"), pretty=False)
    partial = path / "model.safetensors.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.chmod(0o644)
    os.replace(partial, path / "model.safetensors")


def load_directory(path):
    """The model in f32 from the stored weights, and its tokenizer."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    model = LanguageModel(config)
    tensors = load_file(path / "model.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    model.eval()
    return model, Tokenizer.from_file(str(path / "tokenizer.json"))


# ---- use of the stored weights ------------------------------------------------------------------


def evaluate(path):
    model, tokenizer = load_directory(path)
    for label, text in zip(("train", "valid"), read_text()):
        ids = encode(tokenizer, text)
        loss = mean_loss(model, ids)
        bits = loss * (len(ids) - 1) / math.log(2) / len(text.encode("utf-8"))
        print(f"stored weights, {label}: {loss:.4f} nats per token, {bits:.4f} bits per byte")


@torch.no_grad()
def next_logits(model, ids):
    return model(torch.tensor([ids[-CONTEXT:]]))[0, -1]


def sample(path, args):
    model, tokenizer = load_directory(path)
    torch.manual_seed(args.seed)
    ids = [0] + tokenizer.encode(args.prompt).ids
    for _ in range(args.tokens):
        logits = next_logits(model, ids) / args.temperature
        ids.append(int(torch.multinomial(logits.softmax(-1), 1)))
    print(tokenizer.decode(ids))


PROMPTS = ["ROMEO:\n", "First Citizen:\nWe are", "My lord, "]


@torch.no_grad()
def reference(path):
    """One entry per prompt; no token is put in front, and `nll` begins at the second token."""
    model, tokenizer = load_directory(path)
    entries = []
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt).ids
        logits = model(torch.tensor([ids]))[0]
        nll = F.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="sum")
        greedy, margin = [], math.inf
        for _ in range(48):
            first, second = next_logits(model, ids + greedy).topk(2).values.tolist()
            margin = min(margin, first - second)
            greedy.append(int(next_logits(model, ids + greedy).argmax()))
        entries.append({
            "prompt": prompt,
            "ids": ids,
            "greedy": greedy,
            "text": tokenizer.decode(ids + greedy),
            "nll": float(f"{float(nll):.6g}"),
            # The least distance between the chosen token's logit and the next: how exact a
            # comparison of `greedy` can be asked to be.
            "margin": float(f"{margin:.6g}"),
            "logits": [float(f"{x:.6g}") for x in logits[-1].tolist()],
        })
    # One line per field keeps a thousand logits on one line.
    fields = [
        ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in entry.items())
        for entry in entries
    ]
    text = "[\n" + ",\n".join(" {\n" + f + "\n }" for f in fields) + "\n]\n"
    (path / "reference.json").write_text(text, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", choices=CONFIGS, help="the model to train")
    parser.add_argument("dir", type=Path, help="the model's directory")
    parser.add_argument("--evaluate", action="store_true")
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("--reference", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--every", type=int, default=100, help="steps between validations")
    parser.add_argument("--patience", type=int, default=600, help="steps without a better one")
    parser.add_argument("--prompt", default="", help="text to continue (--sample)")
    parser.add_argument("--tokens", type=int, default=200, help="tokens to sample")
    parser.add_argument("--temperature", type=float, default=0.8)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.name:
        train(args.name, args)
    if args.evaluate:
        evaluate(args.dir)
    if args.sample:
        sample(args.dir, args)
    if args.reference:
        reference(args.dir)


if __name__ == "__main__":
    main()
