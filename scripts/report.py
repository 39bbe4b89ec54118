#!/usr/bin/env python3
"""Makes the report of a comparison: summary.csv, summary.md, PNGs and one self-contained report.html.

    python3 scripts/report.py DIRECTORY [--baseline LABEL] [--title TEXT]

Reads DIRECTORY/runs.csv (one row a run) and DIRECTORY/curves.csv (binned steps), which `dither compare` and
`dither report` write. Runs with the same config_hash are one ARM: one computation under several seeds. Its label is
the strategy and whatever else tells it from the other arms: "bf16_sr, v stochastic, b2 0.999, lr 0.002".

Final loss: mean and sample standard deviation (sd) over the seeds of completed runs. Differences between two arms:
paired t-test by seed where both have the same seeds, at least two, else Welch's; Holm adjusts p for the number of
comparisons in a table. All else: medians over the runs. The same CSV files give the same bytes and the same pixels.
report.json keeps title, baseline and what drew the pictures, so that a committed report can be made again and compared.

Needs matplotlib (Debian/Ubuntu: python3-matplotlib) and scipy (python3-scipy).
"""

import argparse
import base64
import csv
import html
import json
import math
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median

STRATEGY, RATE = "precision.strategy", "optimizer.learning_rate"
SHORT = {RATE: "lr", "optimizer.betas[0]": "b1", "optimizer.betas[1]": "b2", "precision.second_moment_rounding": "v",
         "precision.first_moment_rounding": "m"}  # in labels; other keys go by the last part of their path
RUN_TEXTS = "run config_hash seed commit state reason strategy".split()
RUN_NUMBERS = """learning_rate parameters bytes_per_parameter steps steps_done tokens seconds_per_step tokens_per_second
    train_loss validation_loss bits_per_byte edq edq_full imprecision update_to_ulp""".split()
CURVE_TEXTS = "run config_hash seed commit".split()
CURVE_NUMBERS = "step tokens seconds loss validation_loss edq edq_full imprecision".split()
MEDIANS = {"edq": ".3f", "edq_full": ".3f", "imprecision": ".1f", "update_to_ulp": ".3g", "bytes_per_parameter": ".4g",
           "seconds_per_step": ".3g", "tokens_per_second": ",.0f"}
COMPARED = "reference difference low high test p p_holm".split()
STATES = "completed diverged failed incomplete".split()

# Tones that stay apart for colour-blind eyes (Okabe and Ito's eight, without the pale yellow, and four of Tol's).
COLOURS = {"mixed": "#000000", "mixed_autocast": "#8c8c8c", "fp32": "#332288", "bf16": "#d55e00", "bf16_sr": "#0072b2",
           "bf16_kahan": "#cc79a7", "collage_light": "#e69f00", "collage_plus": "#009e73", "split32": "#56b4e9",
           "bf16_fp32_states": "#882255", "dqt": "#999933"}
MARKERS = dict(zip(COLOURS, "osDX^vP<>dh"))  # a second sign of the strategy, for prints without colour
DASHES = ["-", (0, (5, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1))]
MOST_LINES = 12  # in one panel; more arms are spread over panels by what varies
DPI = 130


class ReportError(Exception):
    """What, where and the cure, in one line."""


# Reading: from the two CSV files to a Study.


@dataclass
class Comparison:
    """An arm's final loss minus a reference's, with its 95 % interval; `test` says how p was found, or why not."""
    reference: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    test: str = ""  # "paired", "Welch", "identical" (all seeds alike: nothing to test) or "" (too few seeds)
    p: float | None = None
    p_holm: float | None = None


@dataclass
class Arm:
    runs: list
    settings: dict  # path of each key that varies in the study -> its value here, as short text
    parts: dict = field(default_factory=dict)  # the settings that the label needs -> their text in it
    losses: dict = field(default_factory=dict)  # seed -> final loss, completed runs only
    against: dict = field(default_factory=dict)  # "baseline", "same settings", "best rate" -> Comparison

    @property
    def hash(self):
        return self.runs[0]["config_hash"]

    @property
    def strategy(self):
        return self.runs[0]["strategy"]

    @property
    def rate(self):
        return self.runs[0]["learning_rate"]

    def label(self, without=()):
        return ", ".join(text for key, text in self.parts.items() if key not in without) or self.strategy

    def count(self, state):
        return sum(run["state"] == state for run in self.runs)

    @property
    def troubles(self):
        """"1 diverged, 1 failed"; empty when every run completed."""
        return ", ".join(f"{self.count(state)} {state}" for state in STATES[1:] if self.count(state))

    @property
    def mean(self):
        return fmean(self.losses.values()) if self.losses else None

    @property
    def sd(self):
        if len(self.losses) < 2:
            return None
        return math.sqrt(math.fsum((loss - self.mean) ** 2 for loss in self.losses.values()) / (len(self.losses) - 1))

    @property
    def shown_runs(self):
        """What curves and medians stand for: the completed runs; all of them where none completed."""
        return [run for run in self.runs if run["state"] == "completed"] or self.runs

    def median(self, column):
        values = [run[column] for run in self.shown_runs if run[column] is not None]
        return median(values) if values else None


@dataclass
class Study:
    title: str
    arms: list
    baseline: Arm
    keys: list  # paths of the keys that vary
    loss: str  # "validation_loss", or "train_loss" where nothing was evaluated
    curves: dict  # run_key(row) -> its rows of curves.csv

    @property
    def loss_name(self):
        return self.loss.replace("train", "training").replace("_", " ")


def short(key):
    return SHORT.get(key, key.rpartition(".")[2])


def run_key(row):
    return row["run"], row["config_hash"], row["seed"], row["commit"]


def read_table(path, texts, numbers):
    """Rows as dictionaries: texts as they are, numbers as float or None where the cell is empty or not finite."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="")
            rows, columns = list(reader), reader.fieldnames or []
    except FileNotFoundError:
        raise ReportError(f"{path}: no such file; `dither report RUN...` writes it") from None
    except (OSError, UnicodeDecodeError, csv.Error) as failure:
        raise ReportError(f"{path}: cannot be read ({failure}); write it again with `dither report RUN...`") from None
    for column in texts + numbers:
        if column not in columns:
            raise ReportError(f"{path}: no column {column}; write it again with `dither report RUN...`")
    for index, row in enumerate(rows):
        for column in numbers:
            try:
                value = float(row[column] or "nan")
            except ValueError:
                raise ReportError(f"{path}: row {index + 1}: {column} is '{row[column]}', needs a number or nothing; "
                                  "write it again with `dither report RUN...`") from None
            row[column] = value if math.isfinite(value) else None
    return rows


def read_study(directory, baseline, title):
    path = directory / "runs.csv"
    runs = read_table(path, RUN_TEXTS, RUN_NUMBERS)
    if not runs:
        raise ReportError(f"{path}: no runs in it; name at least one run: `dither report RUN...`")
    by_hash, curves = defaultdict(list), {}
    for run in runs:
        if run["state"] not in STATES:
            raise ReportError(f"{path}: run {run['run']}: state is '{run['state']}', needs one of {', '.join(STATES)}")
        if run_key(run) in curves:
            raise ReportError(f"{path}: two rows for run {run['run']} with seed {run['seed']} and the same config and "
                              "commit; give each run once")
        curves[run_key(run)] = []
        by_hash[run["config_hash"]].append(run)
    for row in read_table(directory / "curves.csv", CURVE_TEXTS, CURVE_NUMBERS):
        if run_key(row) not in curves:
            raise ReportError(f"{directory / 'curves.csv'}: run {row['run']} is not in runs.csv; write both files "
                              "again with `dither report RUN...`")
        curves[run_key(row)].append(row)

    arms = [Arm(group, settings_of(group[0])) for group in by_hash.values()]
    keys = [key for key in arms[0].settings if len({arm.settings[key] for arm in arms}) > 1]
    keys.sort(key=lambda key: (key != STRATEGY, not key.startswith("precision."), key == RATE))
    label_arms(arms, keys)
    loss = "validation_loss" if any(run["validation_loss"] is not None for run in runs) else "train_loss"
    for arm in arms:
        by_seed = defaultdict(list)  # a seed that ran twice counts once
        for run in arm.runs:
            if run["state"] == "completed" and run[loss] is not None:
                by_seed[run["seed"]].append(run[loss])
        arm.losses = {seed: fmean(losses) for seed, losses in by_seed.items()}
    study = Study(title, arms, choose_baseline(arms, keys, baseline), keys, loss, curves)
    compare_arms(study)
    return study


def settings_of(run):
    """The columns vary:<path> of a run as short texts; the two betas apart."""
    settings = {}
    for column, cell in run.items():
        if not (column or "").startswith("vary:"):
            continue
        path = column.removeprefix("vary:")
        try:
            value = json.loads(cell)
        except ValueError:
            value = cell  # a text: texts stand without quotes
        if path == "optimizer.betas":
            betas = value if isinstance(value, list) else ["–", "–"]
            settings.update({f"{path}[{index}]": str(beta) for index, beta in enumerate(betas)})
        elif isinstance(value, list):
            settings[path] = "+".join(map(str, value)) or "none"
        else:
            settings[path] = f"{value:.10g}" if isinstance(value, float) else cell or "–"
    return settings


def label_arms(arms, keys):
    """Gives each arm the parts of its label. In `precision` and `model` a key often only follows from one before it
    (the gradient's type from the strategy): there it is left out where it differs from no arm that reads the same so
    far."""
    for arm in arms:
        for key in keys:
            section = key.partition(".")[0]
            said = [k for k in arm.parts if section in ("precision", "model") and k.startswith(section + ".")]
            alike = [other for other in arms if all(other.settings[k] == arm.settings[k] for k in said)]
            if len({other.settings[key] for other in alike}) > 1:
                arm.parts[key] = arm.settings[key] if key == STRATEGY else f"{short(key)} {arm.settings[key]}"
    for label, number in Counter(arm.label() for arm in arms).items():
        for arm in arms if number > 1 else []:
            if arm.label() == label:
                arm.parts["config_hash"] = arm.hash or "unknown config"


def choose_baseline(arms, keys, wanted):
    """The arm of that label; else `mixed` with the most common other settings; else the first arm."""
    if wanted is not None:
        for arm in arms:
            if arm.label() == wanted:
                return arm
        raise ReportError(f"--baseline '{wanted}': no such arm; the arms are: " + "; ".join(a.label() for a in arms))
    common = {key: Counter(arm.settings[key] for arm in arms) for key in keys}
    mixed = [arm for arm in arms if arm.strategy == "mixed"]
    return max(mixed, key=lambda arm: sum(common[key][arm.settings[key]] for key in keys), default=arms[0])


# Statistics: one arm against another.


def compare(arm, reference):
    """Mean loss of `arm` minus that of `reference`, 95 % interval and two-sided p."""
    from scipy.stats import t as student

    result = Comparison(reference.label())
    if arm.mean is None or reference.mean is None:
        return result
    result.difference = arm.mean - reference.mean
    n, m = len(arm.losses), len(reference.losses)
    if n < 2 or m < 2:
        return result
    if arm.losses.keys() == reference.losses.keys():
        differences = [arm.losses[seed] - reference.losses[seed] for seed in arm.losses]
        result.test, result.difference, freedom = "paired", fmean(differences), n - 1
        error = math.sqrt(math.fsum((d - result.difference) ** 2 for d in differences) / (n - 1) / n)
        if not any(differences):
            result.test = "identical"
    else:
        a, b = arm.sd**2 / n, reference.sd**2 / m
        result.test, error = "Welch", math.sqrt(a + b)
        freedom = (a + b) ** 2 / (a * a / (n - 1) + b * b / (m - 1)) if error else 1
    if not error:  # no spread at all: t is not defined
        return result
    quantile = student.ppf(0.975, freedom)  # good to ten digits in scipy 1.10: Newton's step makes it fifteen
    reach = error * (quantile - (student.cdf(quantile, freedom) - 0.975) / student.pdf(quantile, freedom))
    # Ten digits: the last ones depend on the version of scipy, and a committed summary must come out the same.
    result.low, result.high, result.p = (float(f"{value:.10g}") for value in (
        result.difference - reach, result.difference + reach, 2 * student.sf(abs(result.difference) / error, freedom)))
    return result


def adjust_by_holm(comparisons):
    """Holm's step-down p: the smallest times k, the next times k - 1 ..., never falling, at most 1."""
    tested, highest = sorted((c for c in comparisons if c.p is not None), key=lambda c: c.p), 0.0
    for rank, comparison in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * comparison.p))
        comparison.p_holm = float(f"{highest:.10g}")


def compare_arms(study):
    """Fills `against` of each arm: the families of comparisons that the tables show."""
    for arm in study.arms:
        if arm is not study.baseline:
            arm.against["baseline"] = compare(arm, study.baseline)
        twin = same_settings_twin(study, arm)
        if twin and arm.strategy != study.baseline.strategy:
            arm.against["same settings"] = compare(arm, twin)
    best = {id(best): best for best, _ in best_rates(study)}
    reference = next((b for b, group in best_rates(study) if study.baseline in group), None)
    for arm in best.values():
        if reference and arm is not reference:
            arm.against["best rate"] = compare(arm, reference)
    for family in ("baseline", "same settings", "best rate"):
        adjust_by_holm([arm.against[family] for arm in study.arms if family in arm.against])


def same_settings_twin(study, arm):
    """The arm of the baseline's precision whose other settings are those of `arm`."""
    own = [key for key in study.keys if key.startswith("precision.")]
    others = [key for key in study.keys if key not in own]
    return next((twin for twin in study.arms if all(twin.settings[key] == arm.settings[key] for key in others)
                 and all(twin.settings[key] == study.baseline.settings[key] for key in own)), None)


def rate_groups(arms):
    """Arms that differ in the learning rate alone, each group by rising rate."""
    groups = defaultdict(list)
    for arm in arms:
        others = tuple(value for key, value in arm.settings.items() if key != RATE)
        groups[others if RATE in arm.parts and arm.rate is not None else arm.hash].append(arm)
    return [sorted(group, key=lambda arm: arm.rate or 0) for group in groups.values()]


def best_rates(study):
    """(best arm, its group) where several rates were tried, and of the baseline's group: lowest mean loss, of the arms
    without a diverged or failed run if there are such."""
    result = []
    for group in rate_groups(study.arms):
        if len(group) == 1 and study.baseline not in group:
            continue
        sound = [arm for arm in group if arm.losses and not arm.count("diverged") + arm.count("failed")]
        candidates = sound or [arm for arm in group if arm.losses]
        result += [(min(candidates, key=lambda arm: arm.mean), group)] if candidates else []
    return result


# Tables: the same cells for summary.md and the page; summary.csv has them in full.


@dataclass
class Table:
    heading: str
    columns: list
    rows: list
    notes: list


def number(value, form):
    return "–" if value is None else format(value, form)


def p_text(p):
    return "–" if p is None else "<0.0001" if p < 1e-4 else f"{p:.2g}"


def comparison_cells(comparison):
    if comparison is None:
        return ["–"] * 4
    interval = "–" if comparison.low is None else f"{comparison.low:+.4f} to {comparison.high:+.4f}"
    p = "identical" if comparison.test == "identical" else p_text(comparison.p) + " W" * (comparison.test == "Welch")
    return [number(comparison.difference, "+.4f"), interval, p, p_text(comparison.p_holm)]


def comparison_note(study, family):
    tested = sum(arm.against[family].p is not None for arm in study.arms if family in arm.against)
    return (f"{tested} comparison{'s' * (tested != 1)} in this table: p (Holm) is p adjusted for that number. "
            "p: paired t-test by seed; W: Welch's t-test, where the seeds of the two arms are not the same. –: too few "
            "seeds, or not measured.")


def tables_of(study):
    comparison = ["difference", "95 % interval", "p", "p (Holm)"]
    rows = []
    for arm in study.arms:
        done = f"{arm.count('completed')}/{len(arm.runs)}" + (f" ({arm.troubles})" if arm.troubles else "")
        figures = [number(arm.median(column), form) for column, form in MEDIANS.items()]
        own = ["baseline", "–", "–", "–"] if arm is study.baseline else comparison_cells(arm.against["baseline"])
        rows.append([arm.label(), done, number(arm.mean, ".4f"), number(arm.sd, ".4f")] + own + figures)
    columns = ["arm", "completed", study.loss_name, "sd"] + comparison
    columns += ["EDQ", "EDQ full", "imprecision %", "update/ulp", "bytes/param", "s/step", "tokens/s"]
    notes = [f"Differences are to the baseline, {study.baseline.label()}; below 0 is better. "
             + comparison_note(study, "baseline"),
             "Loss and sd: completed runs only, one value a seed. A diverged run does not enter the mean: read its "
             "count first."]
    tables = [Table("Every arm", columns, rows, notes)]

    same = [arm for arm in study.arms if "same settings" in arm.against]
    if len({arm.against["same settings"].reference for arm in same}) > 1:
        rows = [[arm.label(), arm.against["same settings"].reference] + comparison_cells(arm.against["same settings"])
                for arm in same]
        tables.append(Table("At equal settings", ["arm", "compared with"] + comparison, rows,
                            ["Each arm beside the baseline's strategy at the same other settings. "
                             + comparison_note(study, "same settings")]))
    if any(len(group) > 1 for group in rate_groups(study.arms)):
        tables.append(best_rate_table(study, comparison))
    return tables


def best_rate_table(study, comparison):
    rows, known = [], any(study.baseline in group for _, group in best_rates(study))
    for best, group in best_rates(study):
        rates = [arm.rate for arm in group]
        edge = " (edge)" if len(group) > 1 and best.rate in (rates[0], rates[-1]) else ""
        cells = comparison_cells(best.against.get("best rate"))
        if known and "best rate" not in best.against:
            cells[0] = "baseline"
        rows.append([best.label(without={RATE}), ", ".join(number(rate, "g") for rate in rates),
                     number(best.rate, "g") + edge, str(len(best.losses)), number(best.mean, ".4f"),
                     number(best.sd, ".4f"), *cells])
    notes = [f"Those that tried several learning rates, each at the rate of its lowest mean {study.loss_name} (of the "
             "rates at which no run diverged or failed, if there are such). The rate is chosen by the same losses that "
             "are compared: a small difference here proves little. edge: the best is the first or last rate tried, a "
             "better one may lie beyond.", comparison_note(study, "best rate")]
    columns = ["arm", "rates tried", "best rate", "n", study.loss_name, "sd"] + comparison
    return Table("At the best learning rate", columns, rows, notes)


def seeds_of(study):
    return list(dict.fromkeys(run["seed"] for arm in study.arms for run in arm.runs))


def commits_of(runs):
    return list(dict.fromkeys(run["commit"] for run in runs if run["commit"]))


def facts_of(study):
    """What the tables rest on, a sentence each; for the page and for summary.md."""
    runs = [run for arm in study.arms for run in arm.runs]
    commits = commits_of(runs)
    facts = [f"{len(study.arms)} arms, {len(runs)} runs: "
             + ", ".join(f"{n} {state}" for state in STATES if (n := sum(run["state"] == state for run in runs))) + ".",
             f"Seeds: {', '.join(seeds_of(study))}. Commit: {', '.join(commits) or 'unknown'}.",
             "What varies: " + (", ".join(study.keys) or "nothing but the seed") + "."]
    if len(commits) > 1:
        facts.append("The runs are of several commits: differences between arms may be differences between commits.")
    return facts


def write_summary_md(study, tables, path):
    lines = [f"# {study.title}", ""] + [f"- {fact}" for fact in facts_of(study)]
    for table in tables:
        lines += ["", f"## {table.heading}", ""]
        lines.append("| " + " | ".join(table.columns) + " |")
        lines.append("|---" * len(table.columns) + "|")
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows]
        lines += [""] + [f"- {note}" for note in table.notes]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def cell_of(value):
    """Shortest text that reads back to the same number; nothing for nothing."""
    return "" if value is None else repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def write_summary_csv(study, path):
    families = {"": "baseline", "same_settings_": "same settings", "best_rate_": "best rate"}
    best, constants = [arm for arm, _ in best_rates(study)], ["bits_per_byte", "parameters", "steps", "tokens"]
    rows = []
    for arm in study.arms:
        row = {"label": arm.label(), "config_hash": arm.hash, "strategy": arm.strategy,
               "is_baseline": int(arm is study.baseline), "runs": len(arm.runs)}
        row |= {state: arm.count(state) for state in STATES}
        row |= {"n_seeds": len(arm.losses), "seeds": " ".join(arm.losses), "commits": " ".join(commits_of(arm.runs)),
                "loss_kind": study.loss, "loss_mean": arm.mean, "loss_sd": arm.sd}
        for prefix, family in families.items():
            row |= {prefix + column: getattr(arm.against.get(family), column, None) for column in COMPARED}
        row |= {"at_best_rate": int(arm in best)} | {column: arm.median(column) for column in [*MEDIANS, *constants]}
        rows.append(row | {f"vary:{key}": arm.settings[key] for key in study.keys})
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows([cell_of(value) for value in row.values()] for row in rows)


# Figures. Axes stand at fixed places, in whole tenths of an inch and so (DPI) in whole pixels: another version of
# matplotlib moves no curve, at most it draws other glyphs.

LEFT, TOP, BOTTOM, BESIDE, BETWEEN, RIGHT = 1.0, 1.1, 0.6, 0.8, 1.0, 0.9


def save_figure(study, path, subtitle, heights, width, draw, left=LEFT, columns=1, beside=BESIDE, right=RIGHT):
    """Rows of panels of the given heights; draw(panels) fills them. `left` has the tick labels, `right` the legends."""
    from matplotlib import pyplot

    left, right, heights = tenths(left), tenths(right), [tenths(height) for height in heights]
    across = left + columns * width + (columns - 1) * beside + right
    down = TOP + sum(heights) + (len(heights) - 1) * BETWEEN + BOTTOM
    # A millionth more: versions differ in how they cut 1611.9999 pixels.
    figure = pyplot.figure(figsize=(across + 1e-6, down + 1e-6))
    size = min(14, 110 * across / len(study.title))  # points: a long title still fits
    figure.text(0.25 / across, 1 - 0.2 / down, study.title, fontsize=size, weight="bold", va="top")
    figure.text(0.25 / across, 1 - 0.5 / down, subtitle, fontsize=10.5, va="top")
    panels, y = [], down - TOP
    for height in heights:
        y -= height
        lefts = [(left + column * (width + beside)) / across for column in range(columns)]
        panels.append([figure.add_axes((x, y / down, width / across, height / down)) for x in lefts])
        y -= BETWEEN
    for axes in figure.axes:
        axes.grid(color="#e6e6e6", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    draw(panels)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})  # no version in the file
    pyplot.close(figure)


def tenths(inches):
    return math.ceil(10 * inches - 1e-9) / 10


@dataclass
class Panel:
    arms: list
    said: dict  # key -> value that all its arms share: said in the title, not in the legend

    @property
    def title(self):
        return ", ".join(f"{short(key)} {value}" for key, value in self.said.items() if value)

    def looks(self):
        """(arm, name, colour, dash, marker): colour and marker tell the strategy, the dash whatever else varies."""
        others = {arm.hash: ", ".join(text for key, text in arm.parts.items() if key not in (STRATEGY, *self.said))
                  for arm in self.arms}
        order = sorted(dict.fromkeys(others.values()), key=bool)  # nothing else: a solid line
        return [(arm, arm.label(without=self.said) + (f" ({arm.troubles})" if arm.troubles else ""),
                 colour_of(arm.strategy), DASHES[order.index(others[arm.hash]) % len(DASHES)],
                 MARKERS.get(arm.strategy, "*")) for arm in self.arms]

    def legend(self, axes):
        """At the right of the axes."""
        from matplotlib.lines import Line2D

        axes.legend(handles=[Line2D([], [], color=colour, linestyle=dash, marker=marker, markersize=4.5, label=name)
                             for _, name, colour, dash, marker in self.looks()],
                    loc="upper left", bbox_to_anchor=(1.02, 1.03), frameon=False, fontsize=8.5, handlelength=3.2)


def colour_of(strategy):
    return COLOURS.get(strategy, "#b04ab8")


def panels_of(arms, keys):
    """Panels of at most MOST_LINES arms: split by the key that leaves the smallest largest group, small groups put
    together again."""
    def by_value(group, key):
        parts = defaultdict(list)
        for arm in group:
            parts[arm.settings[key]].append(arm)
        return list(parts.values())

    def split(group):
        choices = [parts for key in keys if len(parts := by_value(group, key)) > 1]
        if len(group) <= MOST_LINES or not choices:
            return [group]
        packed = [[]]
        for part in min(choices, key=lambda parts: max(map(len, parts))):
            if len(packed[-1]) + len(part) > MOST_LINES:
                packed.append([])
            packed[-1] += part
        return [panel for part in packed if part for panel in split(part)]

    keys = [key for key in keys if any(key in arm.parts for arm in arms) and key != STRATEGY]
    return [Panel(group, {key: group[0].settings[key] for key in keys if len(by_value(group, key)) == 1})
            for group in split(arms)]


def legend_width(panels):
    """Inches that the longest name needs."""
    return 0.95 + 0.073 * max(len(name) for panel in panels for _, name, *_ in panel.looks())


def curve_of(study, arm, column, axis="step", smooth=False):
    """x, mean, least and greatest over the seeds; x is the mean over them of steps, tokens or seconds."""
    points = defaultdict(list)
    for run in arm.shown_runs:
        rows = [row for row in study.curves[run_key(run)] if row[column] is not None and row[axis] is not None]
        values = [row[column] for row in rows]
        if smooth:  # mean over a bin and its two neighbours
            values = [fmean(values[max(0, i - 1):i + 2]) for i in range(len(values))]
        for row, value in zip(rows, values):
            points[row["step"]].append((row[axis], value))
    stacks = [tuple(zip(*points[step])) for step in sorted(points)]
    return [[fmean(x) for x, _ in stacks], *([of(y) for _, y in stacks] for of in (fmean, min, max))]


def draw_curves(axes, study, panel, column, axis="step"):
    for arm, _, colour, dash, marker in panel.looks():
        x, mean, low, high = curve_of(study, arm, column, axis, smooth=column == "loss")
        axes.plot(x, mean, color=colour, linestyle=dash, linewidth=1.5, marker="." if len(x) == 1 else None)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        if column == "loss":
            x, mean, _, _ = curve_of(study, arm, "validation_loss", axis)
            axes.plot(x, mean, marker, color=colour, markersize=4.5, markeredgecolor="white", markeredgewidth=0.5)
    ends = [line.get_xdata()[-1] for line in axes.lines if len(line.get_xdata())]
    axes.set_xlim(0, 1.02 * max(ends, default=1))
    if not ends:
        axes.text(0.5, 0.5, "not measured", ha="center", color="#666666", transform=axes.transAxes)


def mark(axes, xs, y, sign, text, colour, transform, before):
    """Signs at the edge of the axes with a text before or after them: what the scale cannot show is not left out."""
    axes.plot(xs, [y] * len(xs), sign, color=colour, markeredgewidth=1.8, transform=transform, clip_on=False)
    axes.annotate(text, (min(xs) if before else max(xs), y), xycoords=transform, xytext=(-7 if before else 7, 0),
                  textcoords="offset points", ha="right" if before else "left", va="center", fontsize=7.5, color=colour)


def mark_diverged(axes, study, panel, axis):
    """A cross at the top where a diverged run ends, each arm on a line of its own. Returns the height it takes."""
    (left, right), y = axes.get_xlim(), 1.03
    for arm, _, colour, _, _ in panel.looks():
        curves = [study.curves[run_key(run)] for run in arm.runs if run["state"] == "diverged"]
        ends = [max(left, rows[-1][axis] or 0) for rows in curves if rows] or [left] * bool(curves)
        if ends:
            y -= 0.06
            mark(axes, ends, y, "x", f"{arm.label(without=panel.said)}: {len(curves)}/{len(arm.runs)} diverged", colour,
                 axes.get_xaxis_transform(), before=max(ends) > (left + right) / 2)
    return 1.03 - y


def robust_top(losses):
    """Where an axis of losses may end: far outliers would leave the rest no room, so they are named at the edge."""
    ordered = sorted(losses) or [0.0, 1.0]
    best, quartile = ordered[0], ordered[(3 * len(ordered)) // 4]
    return min(ordered[-1], best + max(8 * (quartile - best), 0.05 * abs(best)))


def fit_losses(axes, study, panel, share):
    """Scale for the steps after `share` of a run. A healthy loss never rises far above its start: more is cut off."""
    start, shown = [], []
    for arm in [arm for arm in panel.arms if arm.count("completed")] or panel.arms:
        x, _, low, high = curve_of(study, arm, "loss", smooth=True)
        start += high[:1]
        shown += [value for step, *band in zip(x, low, high) for value in band if step > share * x[-1]]
    shown = [value for value in shown if value <= 1.1 * max(start)] or start
    if shown:
        low, top = min(shown), robust_top(shown) if share else max(shown)
        margin = 0.05 * (top - low) or 0.05
        axes.set_ylim(low - margin, top + margin)


def plot_curves(study, path, subtitle, columns, draw, width=4.0, height=2.9):
    """One row a panel, one column an entry of `columns`."""
    panels = panels_of(study.arms, study.keys)

    def fill(rows):
        for row, panel in zip(rows, panels):
            for axes, column in zip(row, columns):
                draw(axes, panel, column)
            row[0].set_title(panel.title, loc="left", fontsize=10)
            panel.legend(row[-1])

    save_figure(study, path, subtitle, [height] * len(panels), width, fill, columns=len(columns),
                right=legend_width(panels))


def plot_loss(study, path):
    def draw(axes, panel, axis):
        draw_curves(axes, study, panel, "loss", axis)
        fit_losses(axes, study, panel, share=0)
        mark_diverged(axes, study, panel, axis)
        axes.set_xlabel({"step": "optimizer step", "tokens": "tokens", "seconds": "time in steps (s)"}[axis])
        axes.set_ylabel("loss (nats a token)")
        if axis == "tokens":
            axes.xaxis.set_major_formatter(EngFormatter(sep=" "))

    from matplotlib.ticker import EngFormatter

    plot_curves(study, path, "loss (lines: training, mean over seeds; bands: least to greatest; marks: validation)",
                ["step", "tokens", "seconds"], draw)


def plot_loss_zoom(study, path):
    def draw(axes, panel, axis):
        draw_curves(axes, study, panel, "loss")
        fit_losses(axes, study, panel, share=0.5)
        axes.set_xlim(left=axes.get_xlim()[1] / 2)
        (low, top), names = axes.get_ylim(), mark_diverged(axes, study, panel, "step")
        axes.set_ylim(low, top + 1.2 * names * (top - low))
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss (nats a token)")

    plot_curves(study, path, "loss, last half (lines: training; bands: least to greatest; marks: validation)", ["step"],
                draw, width=8.5, height=4.2)


def plot_quality(study, path):
    names = {"edq": "EDQ, stored weight (ratio)", "edq_full": "EDQ, whole state (ratio)",
             "imprecision": "imprecision (%)"}

    def draw(axes, panel, column):
        draw_curves(axes, study, panel, column)
        axes.set_ylim(0, 100 if column == "imprecision" else min(1.6, max(1.1, axes.get_ylim()[1])))
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(names[column])

    plot_curves(study, path, "how much of each update reached the weights", list(names), draw)


def plot_learning_rate(study, path):
    """Final loss against learning rate where several were tried, and the final loss of every arm."""
    swept = {group[0].hash: group for group in rate_groups(study.arms) if len(group) > 1}
    others = [key for key in study.keys if key != RATE]
    panels = panels_of([group[0] for group in swept.values()], others) if swept else []
    for panel in panels:
        panel.said[RATE] = ""  # it is the axis

    def fill(rows):
        for (axes,), panel in zip(rows, panels):
            draw_sweep(axes, study, panel, [swept[arm.hash] for arm in panel.arms])
        draw_dots(rows[-1][0], study)

    save_figure(study, path, f"final {study.loss_name} (mean and sd; dots: seeds)",
                [4.0] * len(panels) + [max(1.2, 0.25 * len(study.arms))], 6.5, fill,
                left=0.3 + 0.075 * max(len(arm.label()) for arm in study.arms),
                right=max(legend_width(panels) if panels else 0, 1.3))


def draw_sweep(axes, study, panel, groups):
    losses = [loss for group in groups for arm in group for loss in arm.losses.values()]
    low, top, y = min(losses, default=0), robust_top(losses), 1.0
    for index, (group, (_, _, colour, dash, marker)) in enumerate(zip(groups, panel.looks())):
        shift = 1.02 ** (index - (len(groups) - 1) / 2)  # so that error bars stand side by side
        shown = [arm for arm in group if arm.losses]
        axes.errorbar([arm.rate * shift for arm in shown], [arm.mean for arm in shown], [arm.sd or 0 for arm in shown],
                      color=colour, linestyle=dash, marker=marker, markersize=5, linewidth=1.5, capsize=3)
        for arm in shown:
            seeds = list(arm.losses.values())
            axes.plot([arm.rate * shift] * len(seeds), seeds, "o", color=colour, alpha=0.45, markersize=3)
        for arm in group:
            diverged = arm.count("diverged")
            if diverged or (arm.mean or 0) > top:
                y -= 0.05
                said = f"{diverged}/{len(arm.runs)} diverged" if diverged else f"mean {arm.mean:.2f}"
                mark(axes, [arm.rate * shift], y, "x" if diverged else "^", f"{arm.label(without=panel.said)}: {said}",
                     colour, axes.get_xaxis_transform(), before=True)
    rates = sorted({arm.rate for group in groups for arm in group})
    axes.set_xscale("log")
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.minorticks_off()
    span = (top - low or 0.02) / (y - 0.1)
    axes.set_ylim(low - 0.06 * span, low + span)
    axes.set_xlabel("learning rate (largest of the schedule)")
    axes.set_ylabel(f"final {study.loss_name} (nats a token)")
    axes.set_title(panel.title, loc="left", fontsize=10)
    panel.legend(axes)


def draw_dots(axes, study):
    losses = [loss for arm in study.arms for loss in arm.losses.values()]
    low, top = min(losses, default=0), robust_top(losses)
    margin = 0.06 * (top - low or 0.02)
    axes.set_xlim(low - margin, top + margin)
    axes.set_ylim(len(study.arms) - 0.4, -0.6)
    axes.set_yticks(range(len(study.arms)), [arm.label() for arm in study.arms], fontsize=8.5)
    for y, (arm, _, colour, _, marker) in enumerate(Panel(study.arms, {}).looks()):
        if arm.losses:
            axes.plot(list(arm.losses.values()), [y] * len(arm.losses), "o", color=colour, alpha=0.5, markersize=4)
            axes.errorbar(arm.mean, y, xerr=arm.sd, color=colour, marker=marker, markersize=6, capsize=3)
        greatest = max(arm.losses.values(), default=low)
        said = [f"up to {greatest:.2f}"] * (greatest > top + margin) + [arm.troubles] * bool(arm.troubles)
        if said:
            mark(axes, [1], y, "x" if arm.troubles else ">", ", ".join(said), colour, axes.get_yaxis_transform(),
                 before=False)
    if study.baseline.mean is not None:
        axes.axvline(study.baseline.mean, color=colour_of(study.baseline.strategy), linewidth=0.9, linestyle=DASHES[1])
        axes.set_title(f"every arm (dashed line: baseline, {study.baseline.label()})", loc="left", fontsize=10)
    axes.set_xlabel(f"final {study.loss_name} (nats a token)")


def plot_throughput(study, path):
    groups = defaultdict(list)
    by_strategy = len({arm.strategy for arm in study.arms}) > 1
    for arm in study.arms:
        groups[arm.strategy if by_strategy else arm.label()].append(arm)
    columns = {"tokens_per_second": ("tokens a second", ",.0f"), "bytes_per_parameter": ("bytes a parameter", ".4g")}

    def fill(rows):
        for axes, (column, (column_name, form)) in zip(rows[0], columns.items()):
            longest = max((arm.median(column) or 0 for arm in study.arms), default=0) or 1
            for y, group in enumerate(groups.values()):
                values = [arm.median(column) for arm in group if arm.median(column) is not None]
                if values:
                    axes.barh(y, median(values), color=colour_of(group[0].strategy), height=0.66, alpha=0.85)
                    axes.plot(values, [y] * len(values), "o", color="white", markeredgecolor="#333333", markersize=3.5)
                axes.text(max(values, default=0) + 0.02 * longest, y, format(median(values), form) if values else "–",
                          va="center", fontsize=8.5)
            axes.set_yticks(range(len(groups)), list(groups) if column == "tokens_per_second" else [""] * len(groups))
            axes.set_ylim(len(groups) - 0.5, -0.5)
            axes.set_xlim(0, 1.18 * longest)
            axes.locator_params(axis="x", nbins=5)
            axes.xaxis.set_major_formatter("{x:,g}")
            axes.set_xlabel(column_name)

    save_figure(study, path, "speed and memory (bars: median of the arms; dots: each arm)",
                [0.34 * len(groups) + 0.4], 4.6, fill, left=0.4 + 0.08 * max(map(len, groups)), columns=2)


FIGURES = {  # in the page's order, with captions: what to look at, where the data is
    "loss.png": (plot_loss, "Loss against steps, tokens and time: look at the order of the lines late in the run, "
                 "and whether it is the same at equal time as at equal tokens. Data: curves.csv."),
    "loss_zoom.png": (plot_loss_zoom, "The last half, with a scale of its own: differences smaller than the bands are "
                      "within the spread of the seeds. Data: curves.csv."),
    "learning_rate.png": (plot_learning_rate, "Final loss, seed by seed: compare each strategy at its own best "
                          "learning rate, and distances with the error bars (sd). Data: runs.csv, summary.csv."),
    "quality.png": (plot_quality, "What became of the intended updates: an EDQ below 1 is descent that rounding took "
                    "away; what the second panel has above the first, extra components kept. Data: curves.csv."),
    "throughput.png": (plot_throughput, "What a strategy costs: speed on this machine, and bytes of weight, gradient "
                       "and optimizer state for each parameter. Data: runs.csv."),
}


# Page: report.html, with everything it needs inside.

CSS = """body{font:16px/1.5 Georgia,'DejaVu Serif',serif;color:#222;background:#fdfdfb;max-width:88rem;margin:2rem auto;
padding:0 1.5rem}h1,h2,table{font-family:Helvetica,Arial,'DejaVu Sans',sans-serif;line-height:1.25}
h1{font-size:1.9rem;border-bottom:3px solid #1f3b57}h2{font-size:1.25rem;margin-top:2.4rem;color:#1f3b57}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:12px;font-variant-numeric:tabular-nums}
th{border-bottom:2px solid #1f3b57;vertical-align:bottom}td{border-bottom:1px solid #e3e3de}
th,td{padding:.28rem .45rem;text-align:right;white-space:nowrap}tr.baseline td{background:#eef3f7;font-weight:bold}
td:first-child,th:first-child,.left td,.left th{text-align:left}.left td{white-space:normal}
figure{margin:1.6rem 0}img{max-width:100%;border:1px solid #e3e3de;background:#fff}
figcaption,.note{font-size:.9rem;color:#555}dt{font-weight:bold}dd{margin:0 0 .6rem 1.5rem}"""

GLOSSARY = {
    "EDQ": "Effective descent quality, <E,U>/<U,U>: U is the update that the optimizer intended, E what the stored "
           "weight really gained. 1: nothing lost on average; 0: stagnant. EDQ full counts the extra components too "
           "(Collage's and Kahan's, the master weight).",
    "imprecision": "Percent of the parameters whose stored weight did not change although the intended update was not "
                   "0. High under every BF16 strategy: alone it tells nothing, beside a low EDQ it does.",
    "update/ulp": "Size of the intended update in steps of the stored format at the weight. Below one half, rounding "
                  "to nearest drops it.",
    "sd, interval, p": "sd is the spread over seeds (n - 1). The interval holds the true difference in 95 % of such "
                       "studies. With three seeds only large differences can be told from chance: a large p is no "
                       "proof of equality.",
    "diverged": "The final loss is not finite or above the first step's, or too many steps in a row were skipped.",
}


def html_table(columns, rows, kind="", strong=None):
    def cells(tag, row):
        return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)

    body = "".join(f"<tr{' class=baseline' if row[0] == strong else ''}>{cells('td', row)}</tr>\n" for row in rows)
    return f"<div class=wide><table class='{kind}'><tr>{cells('th', columns)}</tr>\n{body}</table></div>\n"


def write_html(study, tables, directory):
    def element(tag, text):
        return f"<{tag}>{html.escape(text)}</{tag.partition(' ')[0]}>\n"

    page = ["<!DOCTYPE html><html lang=en><meta charset=utf-8>", element("title", study.title),
            f"<style>{CSS}</style>\n", element("h1", study.title),
            "<ul>", *(element("li", fact) for fact in facts_of(study)), "</ul>\n"]
    for table in tables:
        strong = study.baseline.label() if table is tables[0] else None
        page += [element("h2", table.heading), html_table(table.columns, table.rows, strong=strong)]
        page += [element("p class=note", note) for note in table.notes]
    troubled = [run for arm in study.arms for run in arm.runs if run["state"] != "completed"]
    if troubled:
        rows = [[run["run"], run["state"], f"{number(run['steps_done'], '.0f')} of {number(run['steps'], '.0f')}",
                 run["reason"] or "–"] for run in troubled]
        page += [element("h2", "Runs that did not complete"),
                 html_table(["run", "state", "steps", "reason"], rows, "left")]
    page.append(element("h2", "Figures"))
    for name, (_, caption) in FIGURES.items():
        picture = base64.b64encode((directory / name).read_bytes()).decode()
        page += [f'<figure><img alt="{name}" src="data:image/png;base64,{picture}">', element("figcaption", caption),
                 "</figure>\n"]
    rows = [[arm.label(), arm.hash, ", ".join(dict.fromkeys(run["seed"] for run in arm.runs)),
             ", ".join(commits_of(arm.runs)), *(arm.settings[key] for key in study.keys)] for arm in study.arms]
    page += [element("h2", "Where it comes from"),
             html_table(["arm", "config hash", "seeds", "commit", *map(short, study.keys)], rows, "left"),
             element("h2", "How to read this"), "<dl>",
             *(element("dt", term) + element("dd", meaning) for term, meaning in GLOSSARY.items()), "</dl></html>\n"]
    (directory / "report.html").write_text("".join(page), encoding="utf-8", newline="\n")


def write_report(directory, baseline, title):
    try:
        import matplotlib
        from matplotlib import ft2font
        import scipy.stats  # noqa: F401  (here, so that it is missed before anything is written)
    except ImportError as failure:
        raise ReportError(f"{sys.executable}: {failure.name} is missing, the report needs matplotlib and scipy; "
                          "Debian/Ubuntu: apt-get install python3-matplotlib python3-scipy") from None
    matplotlib.rcdefaults()  # not the user's own style: the same pixels for everyone
    matplotlib.use("Agg")  # no display needed

    study = read_study(directory, baseline, title)
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
