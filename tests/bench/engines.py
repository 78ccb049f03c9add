"""The engines of the comparison: the command that measures one figure, and where it says it."""

import json
import pathlib
import shlex
import subprocess
from dataclasses import dataclass
from typing import Callable, NamedTuple

HERE = pathlib.Path(__file__).resolve().parent


class Test(NamedTuple):
    """Speed of `tokens` tokens, in one call (prefill) or one by one (decode), after `depth`."""

    kind: str
    tokens: int
    depth: int

    def __str__(self):
        return f"{self.kind} {self.tokens}" + (f" at {self.depth}" if self.depth else "")


TESTS = [
    Test("prefill", 128, 0),
    Test("prefill", 512, 0),
    Test("decode", 128, 0),
    Test("decode", 128, 512),
    Test("decode", 128, 2048),
]


class Weights(NamedTuple):
    """What one class of formats is called: by ingot, and at the end of the names of GGUF files and of
    those of ExecuTorch."""

    quant: str
    gguf: str
    pte: str | None = None


BITS = {
    4: Weights("w4a8", "q4_0-pure", "8da4w"),
    8: Weights("w8a8", "q8_0"),
    16: Weights("f16", "f16"),
}


@dataclass
class Job:
    """One figure to measure."""

    peers: pathlib.Path
    ingot: pathlib.Path
    model: str
    bits: int
    threads: int
    repeat: int
    test: Test

    def gguf(self):
        return self.peers / "models" / f"{self.model}-{BITS[self.bits].gguf}.gguf"

    def pte(self):
        return self.peers / "models" / f"{self.model}-{BITS[self.bits].pte}.pte"

    def checkpoint(self):
        """What ingot compiles: the numbers that the GGUF files were made of."""
        models = self.peers / "models"
        directory = models / f"{self.model}-hf"
        return directory if directory.exists() else models / f"{self.model}-f16.gguf"


class Figure(NamedTuple):
    """Tokens per second, and what the engine says beside it."""

    speed: float
    weights_bytes: int | None = None
    parameters: int | None = None
    machine_gb: float | None = None


def ingot_command(job):
    kind, tokens, depth = job.test
    command = [job.ingot, "bench", job.checkpoint(), "--quant", BITS[job.bits].quant]
    command += ["--threads", job.threads, "--repeat", job.repeat, "-C", "target-cpu=native"]
    command += ["--prefill", tokens if kind == "prefill" else 0]
    command += ["--decode", tokens if kind == "decode" else 0]
    if depth:
        command += ["--depth", depth, "--context", depth + 256]
    return command + ["--json"]


def ingot_figure(text):
    said = json.loads(text)
    [at] = said["depths"]
    speed = (at["prefill"] or at["decode"])["tokens_per_second"]["median"]
    probe = said["bandwidth_gb_per_second"]
    machine_gb = (probe["before"] + probe["after"]) / 2
    return Figure(speed, weights_bytes=said["weights_bytes"], machine_gb=machine_gb)


def llama_command(build):
    def command(job):
        kind, tokens, depth = job.test
        command = [job.peers / build / "bin/llama-bench", "-m", job.gguf(), "-t", job.threads]
        command += ["-p", tokens if kind == "prefill" else 0]
        command += ["-n", tokens if kind == "decode" else 0]
        return command + ["-d", depth, "-r", job.repeat, "-o", "json"]

    return command


def llama_figure(text):
    [said] = json.loads(text)
    samples = sorted(said["samples_ts"])
    return Figure(samples[len(samples) // 2], said["model_size"], said["model_n_params"])


def script_command(venv, script, model):
    """A script beside this file, run by the Python that has the engine."""

    def command(job):
        python = job.peers / venv / "bin/python"
        return [python, HERE / script, model(job), job.threads, *job.test, job.repeat]

    return command


def script_figure(text):
    return Figure(float(text.split()[-1]))


def need(path, script):
    """Ends the program unless a script of this folder has made what it wants."""
    if not path.exists():
        raise SystemExit(f"{path} is not there; tests/bench/{script} makes it")


class Engine(NamedTuple):
    """`installed` is the folder below the peers' that says whether it is there; `bits` what it has
    models of."""

    installed: str
    command: Callable
    figure: Callable
    bits: tuple = tuple(BITS)

    def can(self, job):
        return job.bits in self.bits


ENGINES = {
    "ingot": Engine(".", ingot_command, ingot_figure),
    "llama.cpp": Engine("llama.cpp", llama_command("llama.cpp"), llama_figure),
    "llama.cpp, no AMX": Engine(
        "llama.cpp-no-amx", llama_command("llama.cpp-no-amx"), llama_figure
    ),
    "OpenVINO": Engine(
        "openvino", script_command("openvino", "openvino_bench.py", Job.gguf), script_figure
    ),
    "ExecuTorch": Engine(
        "executorch",
        script_command("executorch", "executorch_bench.py", Job.pte),
        script_figure,
        bits=(4,),
    ),
}


def run(command, under=(), errors=False):
    """What a command writes, with `errors` to standard error too; `under` is put before it."""
    words = [*under, *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{shlex.join(words)}: exit status {done.returncode}: {last}")
    return done.stdout + (done.stderr if errors else "")
