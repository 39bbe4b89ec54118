"""The study in tables: summary.md and the page show the same cells, summary.csv has them in full."""

import csv
from dataclasses import dataclass

from comparable import unrecorded
from comparison import best_rates
from study import RATE, STATES, rate_groups

MEDIANS = {"edq": ".3f", "edq_full": ".3f", "imprecision": ".1f", "update_to_ulp": ".3g", "bytes_per_parameter": ".4g",
           "seconds_per_step": ".3g", "tokens_per_second": ",.0f"}
COMPARED = "reference difference low high test p p_holm reason".split()

UNRECORDED = ("What was judged is unknown for runs of an earlier version, which did not record it: that they judged "
              "the same is taken from their settings.")


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
    if comparison.reason:
        return ["–", f"not comparable: {comparison.reason}", "–", "–"]
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
    if study.loss == "bits_per_byte":
        facts.append("The arms were judged by other tokens of the same text: losses are compared in bits per byte.")
    if any(arm.unlike.get(study.loss) for arm in study.arms):
        facts.append("Not all arms can be compared with the baseline: the tables say why.")
    if unrecorded(study):
        facts.append(UNRECORDED)
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
