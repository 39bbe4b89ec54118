#!/usr/bin/env python3
"""Reads the PTX of the CUDA kernels: every FP32 and FP64 operation must round to nearest and say so, and none may be fused
or approximate. Contraction would break error-free transforms and the equality of bits with the CPU. Attention on the tensor
cores and the loss promise no bits of the CPU: their exponentials are approximate, and they fuse where the source says so.

    python3 scripts/check_ptx.py build/cuda

The folder is one that CMake has configured with DITHER_CUDA (its compile_commands.json says how each file is compiled).
Exit status 1 with the operations that break the rule.
"""

import collections
import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ARITHMETIC = re.compile(r"^\s+(?:@\S+ )?((?:add|sub|mul|div|sqrt|rcp|fma|mad|rsqrt|ex2|lg2|sin|cos|tanh)"
                        r"\.[a-z0-9.]*f(?:32|64))\s", re.M)
EXACT = re.compile(r"^(add|sub|mul|div|sqrt|rcp)\.rn\.f(32|64)$")
# File name -> operations that its source asks for by name (kernels/cuda/ptx.h): there no bits of the CPU are promised.
MEANT = {"loss.cu": ("ex2.approx.ftz.f32",),
         **dict.fromkeys(("attention.cu", "attention_backward.cu", "attention_hopper.cu"), ("fma.rn.f32", "ex2.approx.ftz.f32"))}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    commands = json.loads((Path(sys.argv[1]) / "compile_commands.json").read_text(encoding="utf-8"))
    kernels = [entry for entry in commands if entry["file"].endswith(".cu")]
    if not kernels:
        sys.exit(f"error: {sys.argv[1]}: compiles no CUDA file; configure it with -DDITHER_CUDA=ON")
    broken, checked = [], 0
    for entry in kernels:
        counts = collections.Counter(ARITHMETIC.findall("".join(all_ptx_of(entry))))
        checked += sum(counts.values())
        name = Path(entry["file"]).name
        wrong = {operation: count for operation, count in counts.items() if not EXACT.match(operation)}
        wrong = {operation: count for operation, count in wrong.items() if operation not in MEANT.get(name, ())}
        broken += [f"{name}: {count} x {operation}" for operation, count in sorted(wrong.items())]
    if broken:
        sys.exit("error: operations that are fused or not rounded to nearest: " + "; ".join(broken))
    print(f"{checked} operations in {len(kernels)} files round to nearest; none is fused or approximate but those "
          "that attention and the loss ask for")


def all_ptx_of(entry):
    """The PTX of a file for each of its architectures, compiled as the build compiles it."""
    command = [word for word in shlex.split(entry["command"]) if not word.startswith(("--generate-code", "-Xptxas"))]
    command[command.index("-c")] = "-ptx"
    for architecture in sorted(set(re.findall(r"arch=(compute_\w+)", entry["command"]))):
        with tempfile.TemporaryDirectory() as folder:
            output = str(Path(folder) / "kernel.ptx")
            command[command.index("-o") + 1] = output
            subprocess.run([*command, f"-arch={architecture}"], cwd=entry["directory"], check=True)
            yield Path(output).read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
