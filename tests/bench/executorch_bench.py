"""Prints the tokens per second of ExecuTorch, the median of REPEAT measurements.
usage: executorch_bench.py MODEL.pte THREADS prefill|decode TOKENS DEPTH REPEAT

Prompts are random tokens. A call of the module takes tokens and the position of the first, and
gives the logits of the last one; decoding takes the likeliest.
"""

import statistics
import sys
import time

import torch
from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401: attention and the cache
from executorch.extension.pybindings import portable_lib as runtime
import executorch.kernels.quantized  # noqa: F401: the embedding table

# Decoding begins after a prompt, however short.
SHORTEST_PROMPT = 8


def logits(module, ids, position):
    return module.forward([ids, torch.tensor([position])])[0]


def prompt(tokens, random):
    return torch.randint(100, 30000, (1, tokens), generator=random)


def measure(module, random, kind, tokens, depth):
    """Tokens per second."""
    if kind == "prefill":
        ids = prompt(tokens, random)
        start = time.perf_counter()
        logits(module, ids, 0)
        return tokens / (time.perf_counter() - start)
    depth = max(depth, SHORTEST_PROMPT)
    last = logits(module, prompt(depth, random), 0)
    start = time.perf_counter()
    for position in range(depth, depth + tokens):
        last = logits(module, last.argmax().reshape(1, 1), position)
    return tokens / (time.perf_counter() - start)


def main():
    model, threads, kind, *numbers = sys.argv[1:]
    tokens, depth, repeat = map(int, numbers)
    runtime._unsafe_reset_threadpool(int(threads))
    torch.set_num_threads(1)
    module = runtime._load_for_executorch(model)
    random = torch.Generator().manual_seed(1)
    # The first measurement warms up.
    speeds = [measure(module, random, kind, tokens, depth) for _ in range(repeat + 1)]
    print(statistics.median(speeds[1:]))


main()
