#!/usr/bin/env python3
"""Deletes each barrier, wait and fence of the CUDA kernels in turn and runs the kernels' tests on the host: a deletion that
no test notices means a barrier that is not needed, or a test that is missing.

    python3 scripts/mutate_barriers.py build/test                 all of them
    python3 scripts/mutate_barriers.py build/test --count 10      ten, drawn by today's date or --seed

The folder must hold a built test_cuda_host. A line whose comment says "not tested:" with a reason is left alone; the script
lists it. Exit status 1 if a deletion survives.
"""

import argparse
import datetime
import json
import random
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WAITS = re.compile(r"\b(__syncthreads|__syncwarp|__threadfence|cp_async_wait\w*|cp_async_commit|fence_\w+|mbarrier_\w+|"
                   r"wgmma_fence|wgmma_commit|wgmma_wait)"
                   r"\s*(<[^>]*>)?\([^;]*\);")
SECONDS = 300  # a kernel that lost its wait may go round for ever


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("build", type=Path, metavar="BUILD", help="build folder with test_cuda_host in it")
    parser.add_argument("--count", type=int, help="how many to delete; default: all")
    parser.add_argument("--seed", type=int, default=datetime.date.today().toordinal(), help="which; default: the date")
    arguments = parser.parse_args()
    waits, excused = find_waits()
    for place, reason in excused:
        print(f"{place}: left alone, {reason}")
    if arguments.count is not None:
        random.Random(arguments.seed).shuffle(waits)
        waits = waits[:arguments.count]
    program = Program(arguments.build.resolve())
    if not program.passes(program.path):
        sys.exit(f"error: {program.path}: fails as it is; build it and mend it first")
    survivors = []
    for path, line, text in waits:
        with tempfile.TemporaryDirectory() as overlay:
            noticed = program.notices(path, line, Path(overlay))
        print(f"{path.relative_to(ROOT)}:{line + 1}: {'noticed' if noticed else 'SURVIVES'}: {text}", flush=True)
        survivors += [] if noticed else [f"{path.relative_to(ROOT)}:{line + 1}"]
    print(f"{len(waits)} deleted, {len(survivors)} survived (seed {arguments.seed})")
    if survivors:
        sys.exit("error: no test notices that these are gone: " + ", ".join(survivors))


def find_waits():
    """(file, line, text) of each wait, and (place, reason) of those that are excused."""
    waits, excused = [], []
    for path in sorted((ROOT / "kernels/cuda").glob("*.*")):
        if path.name == "device.h":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")):
            code, _, comment = line.partition("//")
            if not WAITS.search(code):
                continue
            reason = comment.partition("not tested:")[2].strip()
            if reason:
                excused.append((f"{path.relative_to(ROOT)}:{number + 1}", reason))
            else:
                waits.append((path, number, code.strip()))
    return waits, excused


class Program:
    """test_cuda_host, and how it is compiled and linked."""

    def __init__(self, build):
        self.build = build
        self.path = build / "tests/test_cuda_host"
        commands = json.loads((build / "compile_commands.json").read_text(encoding="utf-8"))
        self.compile = {Path(entry["file"]): shlex.split(entry["command"]) for entry in commands
                        if entry["file"].endswith(".cu") and "dither_cuda_on_host" in entry["command"]}
        listed = subprocess.run(["ninja", "-C", str(build), "-t", "commands", "test_cuda_host"], check=True,
                                capture_output=True, text=True).stdout.strip().split("\n")
        self.link = next(line for line in reversed(listed) if "-o tests/test_cuda_host" in line)
        self.link = self.link.partition("&& ")[2].partition(" && ")[0]

    def notices(self, path, line, overlay):
        """Whether the tests fail without that line's wait."""
        mutant = overlay / path.relative_to(ROOT)
        mutant.parent.mkdir(parents=True)
        lines = path.read_text(encoding="utf-8").split("\n")
        lines[line] = WAITS.sub(";", lines[line])
        mutant.write_text("\n".join(lines), encoding="utf-8")
        link = self.link
        users = [path] if path.suffix == ".cu" else [cu for cu in self.compile if uses(cu, path)]
        for number, source in enumerate(users):
            command = list(self.compile[source])
            output = command.index("-o") + 1
            link = link.replace(command[output], str(overlay / f"{number}.o"))
            command[output] = str(overlay / f"{number}.o")
            command[command.index("-c") + 1] = str(overlay / source.relative_to(ROOT) if source == path else source)
            include = next(i for i, word in enumerate(command) if word.startswith("-I"))
            command.insert(include, f"-I{overlay}")
            command.append("-w")  # what nothing uses any more is no error
            subprocess.run(command, cwd=self.build, check=True)
        link = link.replace("-o tests/test_cuda_host", f"-o {overlay}/mutant")
        subprocess.run(shlex.split(link), cwd=self.build, check=True)
        # The tests of the same name first: they take seconds, all of them most of a minute.
        own = ",".join(f"[#{source.stem}_test]" for source in users)
        return not (self.passes(overlay / "mutant", own) and self.passes(overlay / "mutant"))

    @staticmethod
    def passes(program, which="*"):
        """Whether its tests pass, up to the first that does not; none under `which` pass."""
        try:
            done = subprocess.run([program, "--filenames-as-tags", "--abort", which], capture_output=True, timeout=SECONDS,
                                  check=False)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0 or b"No test cases matched" in done.stdout


def uses(source, header):
    """Whether a source includes a header of kernels/cuda, by itself or through another one."""
    for name in re.findall(r'#include "(kernels/cuda/[^"]+)"', source.read_text(encoding="utf-8")):
        included = ROOT / name
        if included == header or uses(included, header):
            return True
    return False


if __name__ == "__main__":
    main()
