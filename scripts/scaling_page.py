#!/usr/bin/env python3
"""Makes the tables of docs/scaling.md anew: each stands between an indented `dither plan` line and `<!-- end -->`.

    scripts/scaling_page.py build/dither
"""
import shlex
import subprocess
import sys
from pathlib import Path

COMMAND, END = "    dither plan ", "<!-- end -->"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    program, root = Path(sys.argv[1]).resolve(), Path(__file__).resolve().parent.parent
    page = root / "docs" / "scaling.md"
    lines, made, inside = page.read_text().split("\n"), [], False
    for i, line in enumerate(lines):
        if line == END:
            inside = False
        if not inside:
            made.append(line)
        if line.startswith(COMMAND) and END in lines[i:] and lines[i + 1] == "" and is_generated(line):
            output = subprocess.run([program, *shlex.split(line)[1:]], cwd=root, check=True, stdout=subprocess.PIPE)
            made += ["", *output.stdout.decode().rstrip("\n").split("\n"), ""]
            inside = True
    page.write_text("\n".join(made))


def is_generated(line):
    return line.endswith("--markdown") or line.endswith("--list-inputs")


if __name__ == "__main__":
    main()
