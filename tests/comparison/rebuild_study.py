#!/usr/bin/env python3
"""Makes a committed study's report again from its CSV files and compares it with what is committed.

    python3 tests/comparison/rebuild_study.py docs/results/STUDY [--page docs/results/STUDY.md]

FOLDER holds runs.csv, curves.csv and what scripts/report made of them: report.json (title, baseline, drawn_by),
summary.csv, summary.md and PNGs. summary.* must come out byte for byte, the pictures within a tolerance; --page names
a page that must contain every table of summary.md verbatim. Exit status 1 and a line for each difference.

Pictures. By the same matplotlib and FreeType: the greatest root mean square (RMS) of the difference, in levels of 255,
over tiles of 16 x 16 pixels. Another processor may round the coverage of a pixel differently, by a level or two: RMS 2
at most. A curve that moves by its own width changes at least 30 pixels of a tile by 100 levels or more:
RMS = sqrt(30 * 100^2 / 256) = 34. The limit lies between. By other versions: curves fall on the same pixels, but
every letter differs (RMS over the picture 16 to 24 between matplotlib 3.6 and 3.11); then size and that RMS alone are
compared, which finds a wrong picture, not a changed curve, and the script says so.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TILE, TILE_LIMIT = 16, 4.0
OTHER_VERSION_LIMIT = 32.0
REPORT = Path(__file__).resolve().parents[2] / "scripts/report"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a committed study's folder")
    parser.add_argument("--page", type=Path, metavar="FILE", help="a page that repeats the tables of summary.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        try:
            differences = compare(arguments.folder, Path(temporary), arguments.page)
        except (OSError, ValueError, KeyError) as failure:
            differences = [f"cannot be rebuilt: {type(failure).__name__}: {failure}"]
    for difference in differences:
        print(f"error: {arguments.folder}: {difference}", file=sys.stderr)
    if differences:
        sys.exit(f"if the change is meant: python3 scripts/report {arguments.folder}, and commit what it writes")
    print(f"{arguments.folder}: summary and pictures are those of its CSV files")


def compare(committed, rebuilt, page):
    recorded = json.loads((committed / "report.json").read_text(encoding="utf-8"))
    for name in ("runs.csv", "curves.csv"):
        shutil.copy(committed / name, rebuilt / name)
    made = subprocess.run([sys.executable, "-B", str(REPORT), str(rebuilt), "--title", recorded["title"],
                           "--baseline", recorded["baseline"]], capture_output=True, text=True, check=False)
    if made.returncode:
        return [f"scripts/report: {made.stderr.strip()}"]
    differences = [text_difference(committed / name, rebuilt / name) for name in ("summary.csv", "summary.md")]

    pictures = [{path.name for path in folder.glob("*.png")} for folder in (committed, rebuilt)]
    differences += [f"{name}: only in one of the committed and the rebuilt report"
                    for name in sorted(pictures[0] ^ pictures[1])]
    drawn_by = json.loads((rebuilt / "report.json").read_text(encoding="utf-8"))["drawn_by"]
    if drawn_by != recorded["drawn_by"]:
        print(f"{committed}: drawn by {recorded['drawn_by']}, here by {drawn_by}: pictures compared roughly")
    differences += [picture_difference(committed / name, rebuilt / name, drawn_by == recorded["drawn_by"])
                    for name in sorted(pictures[0] & pictures[1])]
    if page:
        differences += missing_tables((committed / "summary.md").read_text(encoding="utf-8"), page)
    return [difference for difference in differences if difference]


def text_difference(committed, rebuilt):
    """The first line that differs."""
    if committed.read_bytes() == rebuilt.read_bytes():
        return None
    old, new = (path.read_bytes().decode(errors="replace").split("\n") for path in (committed, rebuilt))
    line = next((i for i, (a, b) in enumerate(zip(old, new)) if a != b), min(len(old), len(new)))
    found, expected = ((lines[line] if line < len(lines) else "(end)") for lines in (old, new))
    return f"{committed.name}, line {line + 1}: committed {found!r}, rebuilt {expected!r}"


def picture_difference(committed, rebuilt, same_versions):
    import numpy
    from matplotlib import image

    old, new = (image.imread(path)[..., :3] * 255.0 for path in (committed, rebuilt))
    if old.shape != new.shape:
        return f"{committed.name}: {old.shape[1]} x {old.shape[0]} pixels, rebuilt {new.shape[1]} x {new.shape[0]}"
    squares = ((old - new) ** 2).mean(axis=2)
    whole = float(numpy.sqrt(squares.mean()))
    if not same_versions:
        alike = whole <= OTHER_VERSION_LIMIT
        return None if alike else f"{committed.name}: RMS {whole:.1f}, limit {OTHER_VERSION_LIMIT}"
    tiles = numpy.pad(squares, [(0, -size % TILE) for size in squares.shape])  # the last tiles may hang over the edge
    tiles = tiles.reshape(tiles.shape[0] // TILE, TILE, -1, TILE).mean(axis=(1, 3))
    row, column = numpy.unravel_index(tiles.argmax(), tiles.shape)
    worst = float(numpy.sqrt(tiles.max()))
    if worst <= TILE_LIMIT:
        return None
    return (f"{committed.name}: RMS {worst:.1f} in the tile at pixel x {column * TILE}, y {row * TILE} (limit "
            f"{TILE_LIMIT}; whole picture {whole:.2f}): curves.csv or runs.csv has changed since it was drawn")


def missing_tables(summary, page):
    """Tables of summary.md, blocks of lines that begin with |, that the page does not contain."""
    text = "\n" + page.read_text(encoding="utf-8")
    blocks = "\n".join(line if line.startswith("|") else "" for line in summary.split("\n")).split("\n\n")
    tables = [block.strip("\n") for block in blocks if block.strip("\n")]
    if not tables:
        return ["summary.md: no table in it"]
    return [f"{page}: lacks the table of summary.md that begins with {table.splitlines()[0]!r}, or differs in a cell"
            for table in tables if f"\n{table}\n" not in text + "\n"]


if __name__ == "__main__":
    main()
