#!/usr/bin/env python3
"""Measures CPU ranks of this machine and compares them with what `dither plan` predicts (docs/results/scaling.md).

    scripts/measure_ranks.py build/dither --json ranks.json

Inputs of the prediction, none of which has seen two ranks train together:
  one rank with one thread, alone, on a short step: seconds of a micro-batch and of the update
  as many such ranks as there are cores, at the same time, knowing nothing of each other: how much slower each is
  collectives among as many ranks as there are cores: latency and bandwidth
Predicted and measured: steps of 1, 2 and 4 ranks of one thread. Beside them one rank with a thread for each core.
Run it on a machine that does nothing else.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LAUNCHER = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_rmaps_base_oversubscribe": "1",  # Open MPI 4, and 5:
            "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
            "GOMP_SPINCOUNT": "10000"}  # threads wait for the next loop a little before they sleep


def busy_seconds():
    """Of all cores since the start, by all programs."""
    user, nice, system, _, _, irq, soft_irq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + soft_irq) / os.sysconf("SC_CLK_TCK")


def own_seconds():
    """Of this script and of what it has started and waited for."""
    return sum(os.times()[:4])


class Bench:
    """Runs `dither bench --ranks` in a folder of its own and reads what it wrote."""

    def __init__(self, options, folder):
        self.options, self.folder, self.count = options, Path(folder), 0
        self.others = 0.0  # the largest share of the cores that other programs took during a run

    def config(self, micro_batches, threads, more=()):
        tokens = self.options.micro_batch_size * self.options.sequence_length
        keys = {"device": "cpu", "model.sequence_length": self.options.sequence_length,
                "batch.micro_batch_size": self.options.micro_batch_size,
                "batch.tokens_per_step": tokens * micro_batches, "parallel.threads": threads,
                "parallel.zero_stage": self.options.zero_stage}
        return [self.options.config] + [f"--set={key}={value}" for key, value in keys.items()] + list(more)

    def start(self, ranks, micro_batches, threads):
        self.count += 1
        report = self.folder / f"{self.count}.json"
        command = [self.options.dither, "bench", *self.config(micro_batches, threads), "--ranks", "--json", str(report)]
        command += ["--quick"] if self.options.quick else []
        if ranks > 1:
            command = ["mpirun", "-np", str(ranks), "--bind-to", "none", *command]
        process = subprocess.Popen(command, env={**os.environ, **LAUNCHER}, stdout=subprocess.DEVNULL)
        return process, report, command

    def wait(self, started):
        process, report, command = started
        if process.wait() != 0:
            sys.exit(f"{' '.join(command)} ended with status {process.returncode}")
        return json.loads(report.read_text())

    def run(self, ranks, micro_batches, threads):
        begin, busy, own = time.monotonic(), busy_seconds(), own_seconds()
        report = self.wait(self.start(ranks, micro_batches, threads))
        others = (busy_seconds() - busy) - (own_seconds() - own)
        report["others_share"] = max(0.0, others / ((time.monotonic() - begin) * os.cpu_count()))
        self.others = max(self.others, report["others_share"])
        return report

    def plan(self, ranks, micro_batches, inputs):
        command = [self.options.dither, "plan", *self.config(micro_batches, 1), "--device", "cpu", "--ranks",
                   str(ranks), "--json"] + [f"--input={name}={value}" for name, value in inputs.items()]
        report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        return next(stage for stage in report["stages"] if stage["chosen"])["predicted"]


def measured_inputs(bench, cores, short):
    alone = bench.run(1, short, 1)["plan_inputs"]
    together = [bench.wait(started) for started in [bench.start(1, short, 1) for _ in range(cores)]]
    busy = sum(report["plan_inputs"]["micro_batch_seconds"] for report in together) / cores
    # Which core was faster is chance: below 1 the ranks did not slow each other down.
    return {**alone, "cores": cores, "busy_slowdown": max(1.0, busy / alone["micro_batch_seconds"])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dither", help="the program")
    parser.add_argument("--config", default="configs/gpt2-124m.json")
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--micro-batch-size", type=int, default=1)
    parser.add_argument("--micro-batches", type=int, default=32, help="of a step, over all ranks")
    parser.add_argument("--zero-stage", type=int, default=0)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--quick", action="store_true", help="shows that everything runs; the figures mean nothing")
    parser.add_argument("--json", help="write all figures to this file")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, folder)
        inputs = measured_inputs(bench, cores, min(4, options.micro_batches))
        links = bench.run(max(2, cores), max(2, cores), 1)
        inputs.update(links["plan_inputs"])
        reference = bench.run(1, options.micro_batches, cores)
        rows = []
        for ranks in options.ranks:
            measured = bench.run(ranks, options.micro_batches, 1)
            predicted = bench.plan(ranks, options.micro_batches, inputs)
            rows.append({"ranks": ranks, "measured": measured, "predicted": predicted,
                         "error": predicted["step_seconds"] / measured["step"]["seconds"] - 1,
                         "communication_share": measured["communication"]["seconds"] / measured["step"]["seconds"],
                         "to_one_rank_with_all_cores":
                             measured["tokens_per_second"] / reference["tokens_per_second"]})

    print(f"{cores} cores, {options.micro_batches} micro-batches of {options.micro_batch_size} x "
          f"{options.sequence_length} tokens, ZeRO {options.zero_stage}, {links['transport']}")
    print("inputs: " + ", ".join(f"{name} {value:.4g}" for name, value in inputs.items()))
    print(f"one rank with {cores} threads: {reference['tokens_per_second']:.1f} tokens/s\n")
    print("| ranks of one thread | measured s | spread s | predicted s | error | in collectives | tokens/s "
          f"| of one rank with {cores} threads | others |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        step = row["measured"]["step"]
        print(f"| {row['ranks']} | {step['seconds']:.3f} | {step['interquartile_seconds']:.3f} "
              f"| {row['predicted']['step_seconds']:.3f} | {100 * row['error']:+.1f} % "
              f"| {100 * row['communication_share']:.1f} % | {row['measured']['tokens_per_second']:.1f} "
              f"| {row['to_one_rank_with_all_cores']:.3f} | {100 * row['measured']['others_share']:.1f} % |")
    print(f"\nother programs took up to {100 * bench.others:.1f} % of the cores during a run")
    if options.json:
        Path(options.json).write_text(json.dumps({"cores": cores, "others_share": bench.others, "inputs": inputs, "one_rank_all_cores": reference,
                                                  "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
