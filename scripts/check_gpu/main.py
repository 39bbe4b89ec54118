"""Checks on a GPU, stage by stage, and one report of all they found: see scripts/check_gpu.sh.

Every stage ends within eight minutes. One that fails does not stop those after it; the exit status is 1 if any failed.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import stages  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="default: all; --list shows them")
    parser.add_argument("--list", action="store_true", help="show the stages and end")
    parser.add_argument("--host", type=pathlib.Path, metavar="BUILD", help="run on the host with the programs of BUILD")
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build/gpu"), help="build folder on a GPU machine")
    parser.add_argument("--prefix", type=pathlib.Path, help="folder with unpacked packages")
    parser.add_argument("--output", type=pathlib.Path, help="the report; default: report.json in the build folder")
    arguments = parser.parse_args()
    if arguments.list:
        for name, stage in stages.ALL.items():
            print(f"{name:12} {' '.join(stage.__doc__.split())}")
        return
    unknown = [name for name in arguments.stages if name not in stages.ALL]
    if unknown:
        sys.exit(f"error: {', '.join(unknown)}: no such stage; allowed: {', '.join(stages.ALL)}")
    place = stages.Place(host=arguments.host is not None, build=(arguments.host or arguments.build).resolve(),
                         prefix=arguments.prefix.resolve() if arguments.prefix else None)
    output = arguments.output or place.build / "report.json"
    report = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), **machine(place), "stages": {}}
    for name in arguments.stages or stages.ALL:
        report["stages"][name] = run(name, stages.ALL[name], place)
        report["commit"] = commit(place)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")  # what is known so far, should we be cut
    failed = [name for name, result in report["stages"].items() if result["status"] == "failed"]
    print(f"== {output}: {len(report['stages'])} stages, failed: {', '.join(failed) or 'none'}")
    sys.exit(1 if failed else 0)


def run(name, stage, place):
    print(f"== {name}", flush=True)
    begin = time.monotonic()
    try:
        figures = stage(place)
        result = {"status": "passed", **(figures or {})}
    except stages.NotHere as reason:
        result = {"status": "not here", "reason": str(reason)}
    except (stages.Failed, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        result = {"status": "failed", "reason": str(error)[-2000:]}
    result["seconds"] = round(time.monotonic() - begin, 1)
    print(f"== {name}: {result['status']} after {result['seconds']} s {result.get('reason', '')}", flush=True)
    return result


def machine(place):
    """What computes. On the host nothing here speaks of a GPU."""
    if place.host:
        return {"device": f"host execution on {platform.processor() or platform.machine()}", "cores": os.cpu_count()}
    found = text_of(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    if not found:
        sys.exit("error: nvidia-smi finds no GPU here; --host BUILD runs the checks on the host")
    name, driver, memory = found.split("\n")[0].split(", ")
    release = text_of(["nvcc", "--version"]).partition("release ")[2].partition(",")[0]
    return {"device": name, "driver": driver, "memory": memory, "cuda": release or "unknown", "cores": os.cpu_count()}


def text_of(command):
    """What a program prints; "" where there is none, or it fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def commit(place):
    try:
        return place.output([place.program("dither"), "--version"]).partition("commit ")[2].strip() or "unknown"
    except (stages.Failed, OSError):
        return "unknown"


if __name__ == "__main__":
    main()
