"""Prints the tokens per second of ExecuTorch, the median of REPEAT measurements.
usage: executorch_bench.py PROGRAM.pte THREADS prefill|decode TOKENS DEPTH REPEAT
"""

import statistics
import sys
import time

import torch
from executorch.extension.pybindings import portable_lib

# Custom operators that exported programs call.
from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401
from executorch.kernels import quantized  # noqa: F401


def main():
    program, threads, kind, *numbers = sys.argv[1:]
    tokens, depth, repeat = map(int, numbers)
    portable_lib._unsafe_reset_threadpool(int(threads))
    module = portable_lib._load_for_executorch(program)
    ids = torch.randint(100, 30000, (1, depth + tokens), generator=torch.manual_seed(1))

    def feed(first, end):
        module.forward((ids[:, first:end], torch.tensor([first])), clone_outputs=False)

    def measure():
        if depth:
            feed(0, depth)
        began = time.perf_counter()
        if kind == "prefill":
            feed(depth, depth + tokens)
        else:
            for position in range(depth, depth + tokens):
                feed(position, position + 1)
        return tokens / (time.perf_counter() - began)

    measure()
    print(statistics.median(measure() for _ in range(repeat)))


main()
