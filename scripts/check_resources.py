#!/usr/bin/env python3
"""Reads what ptxas says of each CUDA kernel (-Xptxas=-v) and fails where one spills registers to memory.

    cmake --build build/cuda --target dither_cuda 2>&1 | tee ptxas.log; python3 scripts/check_resources.py ptxas.log

Prints a table: registers, bytes of stack, barriers, of each kernel and architecture. A kernel that may spill stands in ALLOWED
with its reason.
"""

import re
import subprocess
import sys
from pathlib import Path

ALLOWED = {}  # part of a kernel's name: why it may spill

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:, used (\d+) barriers)?")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    kernels = read(Path(sys.argv[1]).read_text(encoding="utf-8", errors="replace"))
    if not kernels:
        sys.exit(f"error: {sys.argv[1]}: no report of ptxas in it; was everything built already? Delete the build folder")
    spilling = []
    print("registers  stack  barriers  architecture  kernel")
    for (name, architecture), (registers, stack, barriers, spilled) in sorted(kernels.items()):
        print(f"{registers:9}  {stack:5}  {barriers:8}  {architecture:12}  {name}{'  SPILLS' if spilled else ''}")
        if spilled and not any(part in name for part in ALLOWED):
            spilling.append(f"{name} ({architecture}): {spilled} bytes")
    if spilling:
        sys.exit("error: kernels that spill registers: " + "; ".join(spilling))
    print(f"{len(kernels)} kernels, none spills but those allowed: {', '.join(ALLOWED) or 'none'}")


def read(log):
    """(name, architecture) -> (registers, stack, barriers, bytes spilled)."""
    found, current, stack = {}, None, (0, 0)
    for line in log.split("\n"):
        if match := ENTRY.search(line):
            current, stack = match.groups(), (0, 0)
        elif match := STACK.search(line):
            frame, stores, loads = map(int, match.groups())
            stack = (frame, stores + loads)
        elif (match := USED.search(line)) and current:
            found[current] = (int(match[1]), stack[0], int(match[2] or 0), stack[1])
            current = None
    names = plain_names([name for name, _ in found])
    return {(names[name], architecture): values for (name, architecture), values in found.items()}


def plain_names(names):
    """Demangled, without the arguments."""
    shown = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    short = [re.sub(r"\(anonymous namespace\)::|dither::|^void ", "", text) for text in shown.split("\n")]
    return {name: re.sub(r"\([^()]*\)$", "", text) for name, text in zip(names, short)}


if __name__ == "__main__":
    main()
