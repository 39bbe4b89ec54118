"""Reads runs.csv and curves.csv: the study, its arms, their labels, and the arm that the others are compared with."""

import csv
import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from statistics import fmean, median

from comparable import choose_loss, own_reason

STRATEGY, RATE = "precision.strategy", "optimizer.learning_rate"
SHORT = {RATE: "lr", "optimizer.betas[0]": "b1", "optimizer.betas[1]": "b2", "precision.second_moment_rounding": "v",
         "precision.first_moment_rounding": "m"}  # in labels; other keys go by the last part of their path
RUN_TEXTS = "run config_hash seed commit state reason strategy".split()
RUN_NUMBERS = """learning_rate parameters bytes_per_parameter steps steps_done tokens seconds_per_step tokens_per_second
    train_loss validation_loss bits_per_byte edq edq_full imprecision update_to_ulp""".split()
RUN_ADDED = "judged validation_shards text tokenizer training_shards".split()  # texts, not written by earlier versions
CURVE_TEXTS = "run config_hash seed commit".split()
CURVE_NUMBERS = "step tokens seconds loss validation_loss edq edq_full imprecision".split()
CURVE_ADDED = ["bits_per_byte"]  # a number, the same
STATES = "completed diverged failed incomplete".split()


class ReportError(Exception):
    """What, where and the cure, in one line."""


@dataclass
class Arm:
    runs: list
    settings: dict  # path of each key that varies in the study -> its value here, as short text
    parts: dict = field(default_factory=dict)  # the settings that the label needs -> their text in it
    losses: dict = field(default_factory=dict)  # seed -> final loss, completed runs only
    against: dict = field(default_factory=dict)  # "baseline", "same settings", "best rate" -> Comparison
    unlike: dict = field(default_factory=dict)  # kind of loss -> why it cannot be compared with the baseline's

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
    loss: str  # "validation_loss"; "bits_per_byte" under several tokenizers; "train_loss" where nothing was evaluated
    curves: dict  # run_key(row) -> its rows of curves.csv

    @property
    def loss_name(self):
        return self.loss.replace("train", "training").replace("_", " ")

    @property
    def loss_axis(self):
        return f"final {self.loss_name}" + ("" if self.loss == "bits_per_byte" else " (nats a token)")


def short(key):
    return SHORT.get(key, key.rpartition(".")[2])


def run_key(row):
    return row["run"], row["config_hash"], row["seed"], row["commit"]


def read_table(path, texts, numbers, added_texts=(), added_numbers=()):
    """Rows as dictionaries: texts as they are, numbers as float or None where the cell is empty or not finite. Columns
    that were added since may lack: empty cells."""
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
    for row in rows:
        row |= {column: row.get(column) or "" for column in [*added_texts, *added_numbers]}
    for index, row in enumerate(rows):
        for column in [*numbers, *added_numbers]:
            try:
                value = float(row[column] or "nan")
            except ValueError:
                raise ReportError(f"{path}: row {index + 1}: {column} is '{row[column]}', needs a number or nothing; "
                                  "write it again with `dither report RUN...`") from None
            row[column] = value if math.isfinite(value) else None
    return rows


def read_study(directory, baseline, title):
    path = directory / "runs.csv"
    runs = read_table(path, RUN_TEXTS, RUN_NUMBERS, RUN_ADDED)
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
    for row in read_table(directory / "curves.csv", CURVE_TEXTS, CURVE_NUMBERS, (), CURVE_ADDED):
        if run_key(row) not in curves:
            raise ReportError(f"{directory / 'curves.csv'}: run {row['run']} is not in runs.csv; write both files "
                              "again with `dither report RUN...`")
        curves[run_key(row)].append(row)

    arms = [Arm(group, settings_of(group[0])) for group in by_hash.values()]
    keys = [key for key in arms[0].settings if len({arm.settings[key] for arm in arms}) > 1]
    keys.sort(key=lambda key: (key != STRATEGY, not key.startswith("precision."), key == RATE))
    label_arms(arms, keys)
    loss = choose_loss(arms)
    for arm in arms:
        if own_reason(arm, loss):  # no mean of what measures different things
            continue
        by_seed = defaultdict(list)  # a seed that ran twice counts once
        for run in arm.runs:
            if run["state"] == "completed" and run[loss] is not None:
                by_seed[run["seed"]].append(run[loss])
        arm.losses = {seed: fmean(losses) for seed, losses in by_seed.items()}
    return Study(title, arms, choose_baseline(arms, keys, baseline), keys, loss, curves)


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


def rate_groups(arms):
    """Arms that differ in the learning rate alone, each group by rising rate."""
    groups = defaultdict(list)
    for arm in arms:
        others = tuple(value for key, value in arm.settings.items() if key != RATE)
        groups[others if RATE in arm.parts and arm.rate is not None else arm.hash].append(arm)
    return [sorted(group, key=lambda arm: arm.rate or 0) for group in groups.values()]
