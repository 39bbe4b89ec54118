"""Makes the report of a comparison: summary.csv, summary.md, PNGs and one self-contained report.html.

    python3 scripts/report DIRECTORY [--baseline LABEL] [--title TEXT]

Reads DIRECTORY/runs.csv (one row a run) and DIRECTORY/curves.csv (binned steps), which `dither compare` and
`dither report` write. Runs with the same config_hash are one ARM: one computation under several seeds. Its label is
the strategy and whatever else tells it from the other arms: "bf16_sr, v stochastic, b2 0.999, lr 0.002".

Final loss: mean and sample standard deviation (sd) over the seeds of completed runs. Differences between two arms:
paired t-test by seed where both have the same seeds, at least two, else Welch's; Holm adjusts p for the number of
comparisons in a table. All else: medians over the runs. The same CSV files give the same bytes and the same pixels.
report.json keeps title, baseline and what drew the pictures, so that a committed report can be made again and compared.

Losses are compared where they measure the same thing (comparable.py says when); else the reason stands in their place.

Data goes one way: study.py reads the arms, comparison.py adds how they differ, tables.py writes and figures.py draws
them (on the axes of panels.py), page.py puts all into one page. Python imports from this folder before any other, so no
module here may have the name of one of its own (statistics, html).

Needs matplotlib (Debian/Ubuntu: python3-matplotlib) and scipy (python3-scipy).
"""

import argparse
import json
import sys
from pathlib import Path

try:
    import matplotlib
    import scipy.stats  # noqa: F401  (for comparison.py: missed here, before anything is read or written)
    from matplotlib import ft2font
except ImportError as failure:
    # apt's packages are not seen from a virtual environment.
    cure = (f"{sys.executable} -m pip install matplotlib scipy" if sys.prefix != sys.base_prefix
            else "Debian/Ubuntu: apt-get install python3-matplotlib python3-scipy")
    print(f"error: {sys.executable}: {failure.name} is missing, the report needs matplotlib and scipy; {cure}",
          file=sys.stderr)
    sys.exit(2)

from comparison import compare_arms
from figures import FIGURES
from page import write_html
from study import ReportError, read_study
from tables import tables_of, write_summary_csv, write_summary_md


def write_report(directory, baseline, title):
    matplotlib.rcdefaults()  # not the user's own style: the same pixels for everyone
    matplotlib.rcParams["text.parse_math"] = False  # a $ in a name is a $; no label here is a formula
    study = read_study(directory, baseline, title)
    compare_arms(study)
    tables = tables_of(study)
    drawn_by = f"matplotlib {matplotlib.__version__}, FreeType {ft2font.__freetype_version__}"
    recorded = {"title": study.title, "baseline": study.baseline.label(), "drawn_by": drawn_by}
    try:
        text = json.dumps(recorded, indent=2, ensure_ascii=False) + "\n"
        (directory / "report.json").write_text(text, encoding="utf-8")
        write_summary_csv(study, directory / "summary.csv")
        write_summary_md(study, tables, directory / "summary.md")
        for name, (plot, _) in FIGURES.items():
            plot(study, directory / name)
        write_html(study, tables, directory)
    except OSError as failure:
        raise ReportError(f"{failure.filename}: {failure.strerror}; the report needs room and a folder that can be "
                          "written") from None


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="where runs.csv and curves.csv are")
    parser.add_argument("--baseline", metavar="LABEL", help="arm that the others are compared with (default: mixed)")
    parser.add_argument("--title", metavar="TEXT", help="default: the study's folder")
    arguments = parser.parse_args()
    place = arguments.directory.resolve()
    title = arguments.title or (place.parent.name if place.name == "report" else place.name)
    try:
        write_report(arguments.directory, arguments.baseline, title)
    except ReportError as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(2)
    print(arguments.directory / "report.html")


if __name__ == "__main__":
    main()
