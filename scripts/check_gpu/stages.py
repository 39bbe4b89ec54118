"""The stages of scripts/check_gpu.sh. Each is a function of the place; what it returns goes into the report."""

import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
from dataclasses import dataclass

import corpus

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 480
CURVE_VOCABULARY = 4096
CURVES = ROOT / "tests/fixtures/curves"

# Tests of operations and of the backend: all that bear none of the tags below.
OPERATIONS = "~[strategies]~[parity]~[training]"


# A model that the host computes in no time.
TINY = ("model.layers=1", "model.hidden=64", "model.heads=2", "model.kv_heads=2", "model.head_size=32", "model.ffn=128",
        "model.sequence_length=64", "batch.micro_batch_size=2")


class Failed(Exception):
    """A check that did not hold."""


class NotHere(Exception):
    """A stage that means nothing in this place."""


@dataclass
class Place:
    """Where the programs are, and whether a GPU or the host computes."""

    host: bool
    build: pathlib.Path
    prefix: pathlib.Path

    def program(self, name):
        if not self.host:
            return str({"dither": self.build / "dither", "operations": self.build / "tests/test_cuda_device",
                        "models": self.build / "tests/test_cuda_device", "ranks": self.build / "tests/test_ranks_device"}[name])
        return str(self.build / "tests" / {"dither": "dither_on_host", "operations": "test_cuda_host", "models": "test_cuda",
                                           "ranks": "test_ranks_cuda"}[name])

    def output(self, command, more_environment=None):
        """Runs it; its text. Failed with the end of the text otherwise."""
        environment = dict(os.environ, OMP_WAIT_POLICY="passive", **(more_environment or {}))
        done = subprocess.run([str(word) for word in command], cwd=ROOT, env=environment, timeout=LIMIT_SECONDS, check=False,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            raise Failed(f"{pathlib.Path(str(command[0])).name} ended with {done.returncode}:\n{done.stdout[-1800:]}")
        return done.stdout

    def tests(self, program, which):
        """Runs the tests that Catch2 finds under `which`, and says how many there were."""
        text = self.output([self.program(program), which])
        match = re.search(r"All tests passed \((\d+) assertions? in (\d+) test cases?\)", text)
        if not match:
            raise Failed(f"no test ran under {which}: {text[-500:]}")
        return {"assertions": int(match[1]), "tests": int(match[2])}

    def scratch(self, name):
        folder = self.build / "check_gpu" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def train(self, folder, name, config, settings):
        """One run; its step events."""
        words = [f"name={name}", f"logging.directory={folder}", "device=cuda", *settings]
        self.output([self.program("dither"), "train", config] + [word for each in words for word in ("--set", each)])
        events = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        return [event for event in events if event["event"] == "step"]


def build(place):
    """The program and its tests, for this machine's GPU."""
    if place.host:
        raise NotHere("the programs are built already")
    options = ["-DDITHER_CUDA=ON", "-DDITHER_HOST_EXECUTION=OFF", "-DCMAKE_BUILD_TYPE=Release",
               f"-DDITHER_CUDA_ARCHITECTURES={_architecture()}"]
    if place.prefix:
        options.append(f"-DCMAKE_PREFIX_PATH={place.prefix}/usr")
        options += [f"-DCMAKE_{language}_FLAGS=-isystem {place.prefix}/usr/include" for language in ("CXX", "CUDA")]
    place.output(["cmake", "-G", "Ninja", "-S", ROOT, "-B", place.build, *options])
    jobs = place.output(["bash", "-c", ". scripts/lib.sh; build_jobs"]).strip()
    place.output(["cmake", "--build", place.build, "--parallel", jobs, "--target", "dither", "test_cuda_device",
                  "test_ranks_device"])
    return {"architecture": _architecture()}


def kernels(place):
    """Every operation against its contract, by the CPU's own tests, and the backend itself."""
    return place.tests("operations", OPERATIONS)


def strategies(place):
    """A hundred steps of every strategy end in the stored bits of the CPU."""
    return place.tests("operations", "[strategies]")


def parity(place):
    """Loss, logits and gradients of four tiny models against transformers; training against training on the CPU."""
    return {"transformers": place.tests("models", "[parity]"), "training": place.tests("models", "[training]")}


def determinism(place):
    """Two runs of the program leave the same weights and the same losses."""
    folder = place.scratch("determinism")
    corpus.write_shards(folder / "data", 4096, 200_000, 20_000)
    settings = [f"data.train={folder}/data/train_*.bin", "data.validation=", "steps=6", "sampling.every_steps=0",
                "model.vocabulary=4096", "evaluation.every_steps=0", "batch.tokens_per_step=8192", "batch.micro_batch_size=8"]
    if place.host:
        settings += [*TINY, "batch.tokens_per_step=512", "steps=4"]
    losses = [[step["loss"] for step in place.train(folder, name, "configs/quickstart.json", settings)] for name in ("a", "b")]
    if losses[0] != losses[1]:
        raise Failed(f"losses differ: {losses}")
    if tensors(folder / "a/weights.safetensors") != tensors(folder / "b/weights.safetensors"):
        raise Failed("the weights of two runs differ")
    return {"losses": losses[0]}


def ranks(place):
    """Two ranks that share the GPU through shared memory train as one does; NCCL with a world of one."""
    which = ["ordered: fewer*"] if place.host else []
    text = place.output([ROOT / "scripts/run_ranks.sh", 2, place.program("ranks"), *which], {"DITHER_TEST_TRANSPORT": "host"})
    figures = {"tests": re.search(r"\([^)]*test cases?\)", text).group(0), "nccl": "the program was built without it"}
    folder = place.scratch("ranks")
    corpus.write_shards(folder / "data", 4096, 200_000, 20_000)
    settings = [f"data.train={folder}/data/train_*.bin", "data.validation=", "steps=4", "sampling.every_steps=0",
                "model.vocabulary=4096", "evaluation.every_steps=0", "batch.tokens_per_step=8192", "batch.micro_batch_size=8"]
    if place.host:
        settings += [*TINY, "batch.tokens_per_step=512"]
    alone = [step["loss"] for step in place.train(folder, "alone", "configs/quickstart.json", settings)]
    try:
        by_nccl = place.train(folder, "nccl", "configs/quickstart.json", [*settings, "parallel.transport=nccl"])
    except Failed as reason:
        if "built without it" not in str(reason):
            raise
        return figures
    if [step["loss"] for step in by_nccl] != alone:
        raise Failed(f"losses with NCCL differ: {by_nccl}, alone {alone}")
    return {**figures, "nccl": "a world of one has the losses of a run without it"}


def checkpoints(place):
    """A run whose last checkpoint and weights are gone goes on from the one before, to the same bits; what saving costs."""
    folder = place.scratch("checkpoints")
    corpus.write_shards(folder / "data", 16384, 2_000_000, 20_000)
    settings = [f"data.train={folder}/data/train_*.bin", "data.validation=", "evaluation.every_steps=0", "steps=40",
                "sampling.every_steps=0", "optimizer.schedule.warmup_steps=10", "precision.strategy=mixed",
                "checkpoint.every_steps=10", "batch.tokens_per_step=65536"]
    if place.host:
        settings += [*TINY, "model.vocabulary=16384", "batch.tokens_per_step=128", "steps=8", "checkpoint.every_steps=4"]
    config, run = "configs/gpt2-124m.json", folder / "a"
    losses = [step["loss"] for step in place.train(folder, "a", config, settings)]
    saved = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    saved = [event for event in saved if event["event"] == "checkpoint"]
    weights = tensors(run / "weights.safetensors")
    shutil.rmtree(sorted((run / "checkpoints").glob("step-*"))[-1])
    (run / "weights.safetensors").unlink()
    again = [step["loss"] for step in place.train(folder, "a", config, settings)][len(losses):]
    if not again or again != losses[-len(again):]:
        raise Failed(f"losses of the resumed run {again}, before {losses}")
    if tensors(run / "weights.safetensors") != weights:
        raise Failed("the weights of the resumed run differ")
    middle = saved[-2]  # neither the first, nor the last, which is waited for
    return {"resumed_steps": len(again), **{key: middle[key] for key in ("bytes", "copy_seconds", "stall_seconds", "write_seconds")}}


def tensors(path):
    """The bytes of all tensors of a safetensors file; its header names the run."""
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little"):]


def memcheck(place):
    """The tests of operations under compute-sanitizer: accesses outside of memory, or misaligned."""
    return sanitized(place, "memcheck")


def racecheck(place):
    """The same: races on shared memory."""
    return sanitized(place, "racecheck")


def sanitized(place, tool):
    """The sanitizer's last line."""
    if place.host:
        raise NotHere("on the host the same tests run under AddressSanitizer and UndefinedBehaviorSanitizer (.ci/run)")
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", place.program("operations"), OPERATIONS]
    text = place.output(command, {"DITHER_SEPARATE_BLOCKS": "1"} if tool == "memcheck" else None)
    summaries = re.findall(r"=+ (\w+ SUMMARY: .*)", text)
    if not summaries:
        raise Failed(f"compute-sanitizer said nothing at its end: {text[-500:]}")
    return {"summary": summaries[-1]}


def curves(place):
    """200 steps of GPT-2 124M and of a Llama: the losses are those of the CPU, stored here, but for BF16 noise."""
    figures = {}
    for name in ("gpt2-124m", "llama-60m"):
        if place.host and name != "gpt2-124m":
            continue
        folder = place.scratch(f"curves-{name}")
        settings = curve_settings(name, folder)
        if place.host:  # a small model, against the CPU in the same minute
            settings += [*TINY, f"model.vocabulary={CURVE_VOCABULARY}", "batch.tokens_per_step=128", "steps=10"]
        steps = place.train(folder, "cuda", "configs/gpt2-124m.json", settings)
        if not place.host:
            expected = [float(line.split(",")[1]) for line in (CURVES / f"{name}.csv").read_text().splitlines()[1:]]
        else:
            expected = [step["loss"] for step in place.train(folder, "cpu", "configs/gpt2-124m.json", settings + ["device=cpu"])]
        figures[name] = compare_curves([step["loss"] for step in steps], expected)
    return figures


def curve_settings(name, folder):
    """What a curve is taken with; makes its corpus."""
    corpus.write_shards(folder / "data", CURVE_VOCABULARY, 400_000, 10_000)
    settings = [f"data.train={folder}/data/train_*.bin", "data.validation=", "evaluation.every_steps=0", "steps=200",
                "sampling.every_steps=0", "batch.micro_batch_size=2", "batch.tokens_per_step=512", "model.sequence_length=256",
                "optimizer.schedule.warmup_steps=20", "optimizer.learning_rate=3e-4", "precision.strategy=bf16_sr"]
    if name == "llama-60m":
        settings += ["model.preset=", "model.architecture=llama", "model.layers=6", "model.hidden=512", "model.heads=8",
                     "model.kv_heads=4", "model.head_size=64", "model.ffn=1408", "model.vocabulary=32000"]
    return settings


def compare_curves(losses, expected):
    """The two agree if they lie as close as runs that differ by BF16 rounding do: every step within 0.1 nats (single steps
    are noisy), the means over the last fifty (or the last half) within 0.02."""
    if len(losses) != len(expected):
        raise Failed(f"{len(losses)} steps, expected {len(expected)}")
    gaps = [abs(a - b) for a, b in zip(losses, expected)]
    tail = min(50, len(losses) // 2)
    mean_gap = statistics.fmean(losses[-tail:]) - statistics.fmean(expected[-tail:])
    figures = {"steps": len(losses), "last_loss": losses[-1], "largest_gap": max(gaps), "mean_gap_at_the_end": mean_gap}
    if max(gaps) > 0.1 or abs(mean_gap) > 0.02:
        raise Failed(f"the curves part: {figures}")
    return figures


def train(place):
    """Fifty steps of GPT-2 124M at its own batch: tokens a second, and a loss that falls."""
    folder = place.scratch("train")
    corpus.write_shards(folder / "data", 16384, 2_000_000, 20_000)
    settings = [f"data.train={folder}/data/train_*.bin", "data.validation=", "evaluation.every_steps=0", "steps=50",
                "sampling.every_steps=0", "optimizer.schedule.warmup_steps=10", "precision.strategy=bf16_sr"]
    if place.host:
        settings += [*TINY, "model.vocabulary=16384", "batch.tokens_per_step=128", "steps=6"]
    steps = place.train(folder, "run", "configs/gpt2-124m.json", settings)
    if not steps[-1]["loss"] < steps[0]["loss"]:
        raise Failed(f"the loss went from {steps[0]['loss']} to {steps[-1]['loss']}")
    speeds = [step["tokens_per_second"] for step in steps[len(steps) // 5:]]
    return {"first_loss": steps[0]["loss"], "last_loss": steps[-1]["loss"], "median_tokens_per_second": statistics.median(speeds)}


def bench(place):
    """dither bench at the shapes of GPT-2 124M and Qwen2.5 1.5B: every operation against the ceilings of the same run."""
    figures = {}
    for name in ("gpt2-124m", "qwen2.5-1.5b"):
        if place.host and name != "gpt2-124m":
            continue
        output = place.scratch(f"bench-{name}") / "bench.json"
        command = [place.program("dither"), "bench", f"configs/{name}.json", "--json", output, "--set", "device=cuda"]
        if place.host:
            command.append("--quick")
        for setting in (*TINY, "model.vocabulary=256", "batch.tokens_per_step=128") if place.host else ():
            command += ["--set", setting]
        place.output(command)
        figures[name] = json.loads(output.read_text())
    return figures


def _architecture():
    text = subprocess.run(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"], capture_output=True, text=True,
                          check=True).stdout.split("\n")[0].replace(".", "").strip()
    return "90a-real" if text == "90" else f"{text}-real"


ALL = {stage.__name__: stage for stage in (build, kernels, strategies, parity, determinism, ranks, checkpoints, curves, train,
                                              bench, memcheck, racecheck)}
