"""Prints the tokens per second of OpenVINO GenAI, the median of REPEAT measurements.
usage: openvino_bench.py MODEL.gguf THREADS prefill|decode TOKENS DEPTH REPEAT

Prompts are random tokens, so no tokenizer takes part. Prefill is the time to the first token,
decode the time between the others, as the library's own metrics have them.
"""

import statistics
import sys

import numpy as np
import openvino
import openvino_genai

# Decoding begins after a prompt, however short.
SHORTEST_PROMPT = 8


def measure(pipeline, random, prompt, generated):
    """Seconds to the first token, and seconds per token after it."""
    ids = random.integers(100, 30000, (1, prompt))
    inputs = openvino_genai.TokenizedInputs(
        openvino.Tensor(ids.astype(np.int64)), openvino.Tensor(np.ones((1, prompt), np.int64))
    )
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = generated
    config.ignore_eos = True
    config.do_sample = False
    metrics = pipeline.generate(inputs, config).perf_metrics
    return metrics.get_ttft().mean / 1e3, metrics.get_tpot().mean / 1e3


def main():
    model, threads, kind, *numbers = sys.argv[1:]
    tokens, depth, repeat = map(int, numbers)
    pipeline = openvino_genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=int(threads))
    random = np.random.default_rng(1)
    speeds = []
    # The first measurement warms up.
    for _ in range(repeat + 1):
        if kind == "prefill":
            first, _ = measure(pipeline, random, tokens, 2)
            speeds.append(tokens / first)
        else:
            _, each = measure(pipeline, random, max(depth, SHORTEST_PROMPT), tokens + 1)
            speeds.append(1 / each)
    print(statistics.median(speeds[1:]))


main()
