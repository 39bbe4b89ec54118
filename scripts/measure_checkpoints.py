#!/usr/bin/env python3
"""What saving a checkpoint costs, for docs/results/checkpoints.md: the throughput of a synchronous save beside dd with
fsync on the same disk in the same minute, and how long training waits for an asynchronous one.

  scripts/measure_checkpoints.py build/release/dither --directory /on/the/disk/to/measure
"""
import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

STEPS_BETWEEN = 5  # from one asynchronous save to the next, so that the writer is done long before


def train(options, folder, name, every, saves, asynchronous):
    """Trains so that `saves` checkpoints are written; returns the events of its metrics."""
    command = [options.dither, "train", options.config, "--overwrite"]
    for key, value in {
        "name": name, "logging.directory": folder, "steps": saves * every, "model.sequence_length": 256,
        "batch.micro_batch_size": 1, "batch.tokens_per_step": 256 * options.micro_batches,
        "data.train": options.data, "data.validation": "", "precision.strategy": options.strategy,
        "checkpoint.every_steps": every, "checkpoint.async": str(asynchronous).lower(),
        "checkpoint.keep_last": 1, "logging.measure_every_steps": 0, "evaluation.every_steps": 0,
        "sampling.every_steps": 0,
    }.items():
        command += ["--set", f"{key}={value}"]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{result.stdout}")
    lines = (pathlib.Path(folder) / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def dd(folder, size):
    """Seconds that dd takes for a file of so many bytes, fsync included."""
    path = pathlib.Path(folder) / "dd.bin"
    begin = time.monotonic()
    subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=8M", f"count={size}", "iflag=count_bytes", "conv=fsync"],
                   check=True, stderr=subprocess.DEVNULL)
    seconds = time.monotonic() - begin
    path.unlink()
    return seconds


def checkpoints(events):
    found = [e for e in events if e["event"] == "checkpoint"]
    for event in found:
        if "error" in event:
            sys.exit(f"checkpoint of step {event['step']}: {event['error']}")
    return found


def synchronous(options, folder):
    rows = []
    for attempt in range(options.repeat):
        before = dd(folder, options.bytes) if options.bytes else None
        event = checkpoints(train(options, folder, "sync", 1, 1, False))[-1]
        options.bytes = event["bytes"]
        after = dd(folder, event["bytes"])
        shutil.rmtree(pathlib.Path(folder) / "sync")
        best = min(t for t in (before, after) if t is not None)
        rows.append(best / event["seconds"])
        print(f"save {event['bytes'] / 1e9:.3f} GB in {event['seconds']:.2f} s ({event['bytes'] / event['seconds'] / 1e9:.2f} "
              f"GB/s); dd {best:.2f} s ({event['bytes'] / best / 1e9:.2f} GB/s); ratio {rows[-1]:.2f}", flush=True)
    print(f"synchronous: {statistics.median(rows):.2f} of dd with fsync (median of {len(rows)}; dd: the faster of the two "
          "beside each save)")


def asynchronous(options, folder):
    events = train(options, folder, "async", STEPS_BETWEEN, options.repeat, True)
    seconds = {e["step"]: e["step_seconds"] for e in events if e["event"] == "step"}
    saved = checkpoints(events)
    beside = [seconds[s + 1] for s in sorted(seconds) if s % STEPS_BETWEEN == 0 and s + 1 in seconds]
    alone = [t for s, t in seconds.items() if s > STEPS_BETWEEN and s % STEPS_BETWEEN == 0]  # the writer is done
    step = statistics.median(alone)
    # The last one is waited for at the end of the run.
    for e in saved[:-1]:
        print(f"step {e['step']}: training waited {e['stall_seconds']:.3f} s, {e['copy_seconds']:.3f} of them for the copy; "
              f"written in {e['write_seconds']:.2f} s, whole after {e['seconds']:.2f} s", flush=True)
    waits = [e["stall_seconds"] - e["copy_seconds"] for e in saved[1:-1]]
    copies = [e["copy_seconds"] for e in saved[1:-1]]  # the first one gets its memory from the system
    print(f"asynchronous: beyond the copy ({statistics.median(copies):.3f} s) training waits "
          f"{statistics.median(waits) / step:.2%} of a step (median; largest {max(waits) / step:.2%}); a step takes "
          f"{step:.2f} s alone, {statistics.median(beside):.2f} s beside the writer "
          f"({statistics.median(beside) / step - 1:+.1%})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dither")
    parser.add_argument("--config", default="configs/gpt2-124m.json")
    parser.add_argument("--data", default="data/quickstart/train_*.bin", help="any token shards below its vocabulary")
    parser.add_argument("--strategy", default="mixed")
    parser.add_argument("--micro-batches", type=int, default=12, help="of 256 tokens in a step")
    parser.add_argument("--directory", help="on the disk to measure; default: where temporary files go")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    options.bytes = 0
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        synchronous(options, folder)
        asynchronous(options, folder)


if __name__ == "__main__":
    main()
