#!/usr/bin/env python3
"""Tests of scripts/report, rebuild_study.py and scripts/plot_run.py, on files made here.

    /usr/bin/python3 tests/comparison/report_test.py

Expected figures were worked out apart from the script: by hand, or by integrating Student's density numerically.
"""

import csv
import hashlib
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from matplotlib import image

ROOT = Path(__file__).resolve().parents[2]
REPORT, REBUILD = ROOT / "scripts/report", ROOT / "tests/comparison/rebuild_study.py"
sys.dont_write_bytecode = True  # the source tree stays as it is
sys.path[:0] = [str(REPORT), str(ROOT / "scripts")]
import plot_run  # noqa: E402
from comparison import compare_arms  # noqa: E402
from figures import FIGURES, plot_learning_rate, plot_loss, plot_loss_zoom  # noqa: E402
from panels import COLOURS, MOST_LINES, panels_of, robust_top  # noqa: E402
from study import CURVE_ADDED, RUN_ADDED, read_study  # noqa: E402
from tables import UNRECORDED, facts_of, tables_of, write_summary_csv  # noqa: E402

PICTURES = ["loss.png", "loss_zoom.png", "quality.png", "learning_rate.png", "throughput.png"]

RUN_COLUMNS = """run folder config_hash seed commit state reason strategy learning_rate beta1 beta2 parameters
    bytes_per_parameter steps steps_done tokens seconds seconds_per_step tokens_per_second train_loss validation_loss
    bits_per_byte edq edq_full imprecision update_to_ulp skipped_steps judged validation_shards text tokenizer
    training_shards""".split()
CURVE_COLUMNS = """run config_hash seed commit step tokens seconds loss validation_loss bits_per_byte edq edq_full
    imprecision update_to_ulp gradient_norm learning_rate""".split()

# 3.3 and 3.5 beside 3.0, 3.1 and 3.2: Student's density integrated by Simpson's rule, its quantile by bisection.
WELCH = {"difference": 0.3, "p": 0.14436620481676865, "low": -0.2976997448258259, "high": 0.8976997448258259}

# What a strategy is made to look like: final loss above mixed's, EDQ, EDQ full, imprecision, bytes, seconds a step.
STRATEGIES = {
    "fp32": (-0.002, 1.0, 1.0, 0.1, 16, 0.31), "bf16": (0.110, 0.42, 0.42, 82, 8, 0.110),
    "bf16_sr": (0.004, 0.999, 0.999, 71, 8, 0.112), "bf16_kahan": (0.001, 0.98, 1.0, 72, 10, 0.114),
    "collage_light": (0.002, 0.977, 1.0, 71, 10, 0.115), "collage_plus": (0.001, 0.977, 1.0, 71, 12, 0.121),
    "bf16_fp32_states": (0.105, 0.43, 0.43, 82, 12, 0.113), "split32": (0.0, 0.99, 1.0, 71, 14, 0.118),
    "mixed": (0.0, 0.99, 1.0, 71, 18, 0.125), "mixed_autocast": (-0.001, 1.0, 1.0, 0.1, 18, 0.16)}


def number_text(value):
    return "" if value is None or not math.isfinite(value) else repr(value)


def make_run(strategy, seed, final=None, *, rate=1e-3, beta2=0.95, v="nearest", state="completed", reason="", steps=400,
             varied=("strategy", "v", "rate", "beta2"), losses=None, validation=True, bits=None, data=None):
    """A row of runs.csv and its rows of curves.csv. `final`: the final loss, else one that looks real. `bits`: per
    byte. `data`: hashes of what was judged; else the run recorded none."""
    offset, edq, edq_full, imprecision, size, pace = STRATEGIES[strategy]
    noise = random.Random(f"{strategy} {seed} {rate} {beta2} {v}")
    if final is None:
        worse = 0.03 * math.log2(rate / 1.6e-3) ** 2 + (0.25 if (beta2, v, size) == (0.999, "nearest", 8) else 0)
        final = 3.95 + offset + worse + 0.006 * noise.gauss(0, 1)
    values = {"strategy": ("precision.strategy", strategy), "v": ("precision.second_moment_rounding", v),
              "gradient": ("precision.gradient", "fp32" if "mixed" in strategy or strategy == "fp32" else "bf16_sr"),
              "rate": ("optimizer.learning_rate", repr(rate)), "beta2": ("optimizer.betas", f"[0.9,{beta2}]")}
    settings = {f"vary:{path}": value for path, value in (values[name] for name in varied)}
    done = steps if state == "completed" else steps * 2 // 5
    key = {"run": f"{strategy}-{v}-b{beta2}-lr{rate}-{seed}", "seed": str(seed), "commit": "1f0c2ab",
           "config_hash": hashlib.sha256(f"{strategy} {v} {beta2} {rate}".encode()).hexdigest()[:16]}
    rows, length = [], -(-steps // 100)
    for step in range(length, done + 1, length):
        loss = final + (10.8 - final) * math.exp(-step / 25) + 1.1 * math.exp(-step / 130) + 0.02 * noise.gauss(0, 1)
        if state == "diverged":
            loss = loss if step < 0.6 * done else math.inf if step > 0.9 * done else 2.0 ** (step - 0.6 * done) * 7
        loss = losses(step) if losses else loss
        measured = step % (2 * length) == 0
        rows.append({**key, "step": step, "tokens": 4096 * step, "seconds": number_text(pace * step),
                     "loss": number_text(loss),
                     "validation_loss": number_text(loss + 0.03) if validation and step % (10 * length) == 0 else "",
                     "bits_per_byte": number_text(bits) if step % (10 * length) == 0 else "",
                     "edq": number_text(edq + 0.01 * noise.gauss(0, 1)) if measured else "",
                     "edq_full": number_text(edq_full + 0.002 * noise.gauss(0, 1)) if measured else "",
                     "imprecision": number_text(min(100, imprecision * (0.8 + 0.2 * step / steps))) if measured else "",
                     "update_to_ulp": "", "gradient_norm": "0.5", "learning_rate": repr(rate)})
    good = state != "failed"
    row = {**key, "folder": f"runs/made/{key['run']}", "state": state, "reason": reason, "strategy": strategy,
           "learning_rate": repr(rate), "beta1": "0.9", "beta2": repr(beta2), "parameters": "2500000",
           "bytes_per_parameter": str(size), "steps": str(steps), "steps_done": str(done), "tokens": str(4096 * done),
           "seconds": number_text(pace * done), "seconds_per_step": number_text(pace * (1 + 0.01 * noise.random())),
           "tokens_per_second": number_text(4096 / pace), "train_loss": number_text(final - 0.03) if good else "",
           "validation_loss": number_text(final) if good and validation and state != "diverged" else "",
           "bits_per_byte": number_text(bits), **(data or {}), "edq": repr(edq), "edq_full": repr(edq_full),
           "imprecision": repr(float(imprecision)),
           "update_to_ulp": "0.31", "skipped_steps": "0", **settings}
    return row, rows


def write_study(folder, runs):
    folder.mkdir(parents=True, exist_ok=True)
    varied = [column for column in runs[0][0] if column.startswith("vary:")]
    for name, columns, rows in (("runs.csv", RUN_COLUMNS + varied, [row for row, _ in runs]),
                                ("curves.csv", CURVE_COLUMNS, [row for _, curve in runs for row in curve])):
        with open(folder / name, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    return folder


def whole_study():
    """Like the first study: 26 arms, three seeds each; two runs diverge, one fails."""
    arms = [dict(strategy=strategy) for strategy in STRATEGIES]
    arms += [dict(strategy=strategy, beta2=0.999, v=v) for strategy, v in (
        ("bf16", "nearest"), ("bf16_sr", "nearest"), ("bf16_sr", "stochastic"), ("collage_light", "nearest"),
        ("collage_plus", "nearest"), ("split32", "nearest"), ("mixed", "nearest"))]
    arms += [dict(strategy=strategy, rate=rate)
             for strategy in ("bf16", "bf16_sr", "mixed") for rate in (5e-4, 2e-3, 4e-3)]
    runs = []
    for arm in arms:
        for seed in (1, 2, 3):
            state, reason = "completed", ""
            if arm.get("rate") == 4e-3 and arm["strategy"] == "bf16" and seed > 1:
                state, reason = "diverged", "10 steps in a row skipped: gradient not finite"
            if arm["strategy"] == "bf16_kahan" and seed == 2:
                state, reason = "failed", "error: data/novels/train_000000.bin: no such file"
            runs.append(make_run(seed=seed, state=state, reason=reason,
                                 varied=("strategy", "v", "gradient", "rate", "beta2"), **arm))
    return runs


def arms_of(losses, **options):
    """Runs of {strategy: {seed: final loss}}; the strategy alone varies."""
    return [make_run(strategy, seed, loss, varied=("strategy", "v"), **options)
            for strategy, seeds in losses.items() for seed, loss in seeds.items()]


def run_script(script, *arguments, environment=None):
    command = [sys.executable, "-B", *map(str, (script, *arguments))]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


class ReportTest(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def study(self, runs, baseline=None):
        study = read_study(write_study(self.folder, runs), baseline, "made")
        compare_arms(study)
        return study

    def summary(self, runs, baseline=None):
        """Rows of summary.csv by label."""
        write_summary_csv(self.study(runs, baseline), self.folder / "summary.csv")
        with open(self.folder / "summary.csv", newline="", encoding="utf-8") as file:
            return {row["label"]: row for row in csv.DictReader(file)}

    def run_report(self, *arguments):
        return run_script(REPORT, self.folder, *arguments)

    def figure_of(self, plot, study):
        """What a figure shows, by drawing it and catching it before it is written."""
        caught = []
        with mock.patch("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: caught.append(figure)):
            plot(study, None)
        return caught[0].axes

    def assert_close(self, text, expected):
        self.assertAlmostEqual(float(text), expected, delta=1e-9 * abs(expected))


class Figures(ReportTest):
    # Catches: sd over n, sums for means, one-sided p, the normal's quantile, an unpaired test where seeds agree, a
    # pooled variance or whole degrees of freedom in Welch's, Holm without its steps.
    def test_means_deviations_and_both_t_tests_are_those_worked_out_by_hand(self):
        rows = self.summary(arms_of({"mixed": {1: 3.0, 2: 3.1, 3: 3.2}, "bf16": {3: 3.45, 1: 3.2, 2: 3.25},
                                     "fp32": {1: 3.3, 2: 3.5}}))
        self.assert_close(rows["mixed"]["loss_mean"], 3.1)
        self.assert_close(rows["mixed"]["loss_sd"], 0.1)
        self.assertEqual((rows["mixed"]["is_baseline"], rows["mixed"]["p"], rows["mixed"]["n_seeds"]), ("1", "", "3"))
        # Paired: differences 0.2, 0.15, 0.25; t = 0.2 / (0.05 / sqrt(3)) = sqrt(48). With two degrees of freedom
        # p = 1 - t / sqrt(t^2 + 2) and the quantile is 0.95 / sqrt(2 * 0.975 * 0.025).
        paired = rows["bf16"]
        self.assertEqual(paired["test"], "paired")
        self.assert_close(paired["difference"], 0.2)
        self.assert_close(paired["p"], 1 - math.sqrt(0.96))
        self.assert_close(paired["low"], 0.2 - 0.95 / math.sqrt(0.04875) * 0.05 / math.sqrt(3))
        self.assert_close(paired["p_holm"], 2 * (1 - math.sqrt(0.96)))
        # Welch: 0.3 / sqrt(0.01/3 + 0.02/2), 32/19 degrees of freedom; p and limits by Simpson's rule.
        welch = rows["fp32"]
        self.assertEqual((welch["test"], welch["reference"]), ("Welch", "mixed"))
        for column, expected in WELCH.items():
            self.assert_close(welch[column], expected)
        self.assert_close(welch["p_holm"], WELCH["p"])

    # Catches: an arm that ran a seed twice and counts it as two.
    def test_a_seed_counts_once(self):
        runs = arms_of({"mixed": {1: 3.0, 2: 3.2}})
        again, curve = make_run("mixed", 1, 3.1, varied=("strategy", "v"))
        again, curve = again | {"commit": "other"}, [line | {"commit": "other"} for line in curve]
        row = self.summary(runs + [(again, curve)])["mixed"]
        self.assertEqual((row["n_seeds"], row["runs"]), ("2", "3"))
        self.assert_close(row["loss_mean"], (3.05 + 3.2) / 2)

    # Catches: 0 for a spread or a p that does not exist; a p from one seed.
    def test_single_seeds_have_dashes_instead_of_a_deviation_and_a_p(self):
        study = self.study(arms_of({"mixed": {1: 3.0}, "bf16": {1: 3.25}}))
        self.assertEqual(tables_of(study)[0].rows[1][2:8], ["3.2500", "–", "+0.2500", "–", "–", "–"])
        self.assertEqual(self.summary(arms_of({"mixed": {1: 3.0}, "bf16": {1: 3.25}}))["bf16"]["loss_sd"], "")

    # Catches: 0/0 in t, and p = 0 or 1 for arms that computed the same.
    def test_identical_losses_are_called_identical(self):
        study = self.study(arms_of({"mixed": {1: 3.0, 2: 3.1}, "split32": {1: 3.0, 2: 3.1}}))
        self.assertEqual(tables_of(study)[0].rows[1][4:8], ["+0.0000", "–", "identical", "–"])

    # Catches: a diverged run's loss in the mean, an arm left out because nothing of it completed.
    def test_diverged_and_failed_runs_are_counted_but_not_averaged(self):
        runs = arms_of({"mixed": {1: 3.0, 2: 3.1}, "bf16": {1: 3.2}})
        runs += arms_of({"bf16": {2: 9.9}}, state="failed", reason="error: a, \"b\"")
        runs += arms_of({"fp32": {1: 9.9, 2: 9.8}}, state="diverged", reason="skipped")
        runs[3][0]["validation_loss"] = "9.9"
        study = self.study(runs)
        rows = {row[0]: row for row in tables_of(study)[0].rows}
        self.assertEqual(rows["bf16"][1:3], ["1/2 (1 failed)", "3.2000"])
        self.assertEqual(rows["fp32"][1:8], ["0/2 (2 diverged)"] + ["–"] * 6)
        self.assertEqual(rows["fp32"][8], "1.000")  # its EDQ was measured all the same

    def test_without_validation_the_training_loss_is_compared(self):
        study = self.study(arms_of({"mixed": {1: 3.03, 2: 3.13}}, validation=False))
        table = tables_of(study)[0]
        self.assertEqual((table.columns[2], table.rows[0][2]), ("training loss", "3.0500"))


def judging(judged="t1", shards="v1", text="", tokenizer="k1", training="d1"):
    return {"data": {"judged": judged, "validation_shards": shards, "text": text, "tokenizer": tokenizer,
                     "training_shards": training}}


class Comparable(ReportTest):
    """Two figures that cannot be compared are not compared."""
    ONE, TWO = {1: 3.0, 2: 3.1}, {1: 2.0, 2: 2.1}

    def two(self, one, two, **options):
        return [make_run(strategy, seed, loss, varied=("strategy",), **options, **how)
                for strategy, seeds, how in (("mixed", self.ONE, one), ("bf16", self.TWO, two))
                for seed, loss in seeds.items()]

    def reason(self, one, two, **options):
        study = self.study(self.two(one, two, **options))
        comparison = study.arms[1].against["baseline"]
        if comparison.reason:
            self.assertEqual((comparison.difference, comparison.p, comparison.low, comparison.test),
                             (None, None, None, ""))
            self.assertEqual(tables_of(study)[0].rows[1][4:8],
                             ["–", f"not comparable: {comparison.reason}", "–", "–"])
        return comparison.reason

    # Catches: losses in nats a token of two tokenizers that are subtracted, an order by them.
    def test_two_tokenizers_on_one_text_are_ordered_by_bits_per_byte(self):
        runs = self.two(judging("t1", "v1", "x", "k1", "d1") | {"bits": 1.75},
                        judging("t2", "v2", "x", "k2", "d2") | {"bits": 1.9})
        row = self.summary(runs)["bf16"]
        self.assertEqual((row["loss_kind"], row["reason"]), ("bits_per_byte", ""))
        self.assert_close(row["difference"], 0.15)  # in nats a token it would be -1: the other order
        study = self.study(runs)
        self.assertEqual(tables_of(study)[0].columns[2], "bits per byte")
        self.assertTrue(any("compared in bits per byte" in fact for fact in facts_of(study)))
        axes = self.figure_of(plot_loss, study)[0]
        self.assertEqual(axes.get_ylabel(), "bits per byte")
        self.assertEqual({y for line in axes.lines for y in line.get_ydata()}, {1.75, 1.9})

    # Catches: a difference between figures of other data, a reason that names the wrong thing.
    def test_what_cannot_be_compared_has_a_reason_and_no_difference(self):
        same = judging()
        self.assertEqual(self.reason(same, same), "")
        self.assertEqual(self.reason(same, judging(shards="elsewhere", tokenizer="other file")), "")  # the same targets
        self.assertEqual(self.reason(same, judging("t2", "v2", "", "k2")),
                         "another tokenizer (evaluation.tokens 0 would allow bits per byte)")
        self.assertEqual(self.reason(judging(text="x"), judging("t2", "v2", "y", "k2")), "another tokenizer")
        self.assertEqual(self.reason(same, judging("t2", "v2", "", "")), "another tokenizer")
        self.assertEqual(self.reason(same, judging("t2", "v2")), "other validation data")
        self.assertEqual(self.reason(same, judging("t2")), "other targets of the same validation data")
        self.assertEqual(self.reason(same, {}), "what was judged is not recorded for one of the two")
        self.assertEqual(self.reason({}, {}), "")
        self.assertEqual(self.reason(same, judging(training="d2"), validation=False), "other training data")
        self.assertEqual(self.reason(same, judging(tokenizer="k2"), validation=False), "another tokenizer")
        # One text, but bits per byte were not measured for both.
        self.assertEqual(self.reason(judging(text="x") | {"bits": 1.0}, judging("t2", "v2", "x", "k2")),
                         "another tokenizer")

    # Catches: old runs that judged by micro-batches taken for runs that judged the same.
    def test_runs_that_recorded_nothing_are_said_to_be_unknown_and_their_settings_decide(self):
        runs = self.two({}, {})
        study = self.study(runs)
        self.assertIn(UNRECORDED, facts_of(study))
        for row, _ in runs:
            row["vary:batch.micro_batch_size"] = "4" if row["strategy"] == "mixed" else "8"
        self.assertEqual(self.study(runs).arms[1].against["baseline"].reason,
                         "what was judged is not recorded, and batch.micro_batch_size differs")
        self.assertNotIn(UNRECORDED, facts_of(self.study(self.two(judging(), judging()))))

    # Catches: a mean over seeds of which one judged other data, a best rate by losses that do not compare.
    def test_arms_and_rates_of_mixed_data_have_no_mean_and_no_best(self):
        runs = self.two(judging(), judging())
        runs[3][0]["judged"] = "t9"
        study = self.study(runs)
        self.assertEqual((study.arms[1].mean, study.arms[1].against["baseline"].reason),
                         (None, "its runs differ in their data"))
        runs = [make_run("mixed", 1, loss, rate=rate, varied=("strategy", "rate"), **how) for rate, loss, how in
                ((0.001, 3.2, judging()), (0.002, 3.0, judging("t2")))]
        self.assertNotIn("0.002", [row[2] for row in tables_of(self.study(runs))[-1].rows])

    # Catches: pictures that put beside each other what tables do not.
    def test_pictures_leave_out_what_cannot_be_compared_and_say_so(self):
        study = self.study(self.two(judging(), judging("t2", "v2", "", "k2", "d2")))
        for plot in (plot_loss, plot_loss_zoom, plot_learning_rate):
            axes = self.figure_of(plot, study)[-1 if plot is plot_learning_rate else 0]
            self.assertIn("not comparable", " ".join(text.get_text() for text in axes.texts))
            self.assertIn("another tokenizer", " ".join(text.get_text() for text in axes.texts))
            shown = [value for line in axes.lines
                     for value in (line.get_xdata() if plot is plot_learning_rate else line.get_ydata())]
            self.assertGreater(min(shown), 2.5 if plot is not plot_learning_rate else -0.1)
        self.assertIn("a bin and its two neighbours", FIGURES["loss.png"][1])

    # Catches: files of earlier versions refused.
    def test_csv_files_without_the_newer_columns_are_read(self):
        write_study(self.folder, arms_of({"mixed": {1: 3.0}, "bf16": {1: 3.25}}))
        for name, added in (("runs.csv", RUN_COLUMNS[-5:]), ("curves.csv", ["bits_per_byte"])):
            with open(self.folder / name, newline="", encoding="utf-8") as file:
                rows = [{key: row[key] for key in row if key not in added} for row in csv.DictReader(file)]
            with open(self.folder / name, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)
        study = read_study(self.folder, None, "old")
        compare_arms(study)
        self.assertEqual(tables_of(study)[0].rows[1][4], "+0.2500")

    # Catches: a column renamed where it is written, which would then pass for one that was not recorded.
    def test_the_newer_columns_are_those_that_the_program_writes(self):
        source = (ROOT / "src/comparison/tables.cpp").read_text(encoding="utf-8").replace('"\n      "', "")
        for column in RUN_ADDED + CURVE_ADDED:
            self.assertRegex(source, rf'[",]{column}[",\\]')


class PlotRun(unittest.TestCase):
    """scripts/plot_run.py: a label names what is drawn."""
    def plotted(self, steps, evaluations=()):
        from matplotlib.figure import Figure
        axes = Figure().add_subplot()
        plot_run.plot_loss(axes, steps, list(evaluations))
        return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}

    # Catches: an exponential average, a window that is centred, one longer or shorter than said, means of fewer steps.
    def test_the_mean_of_the_last_steps_is_that(self):
        losses = [10 / step + 0.1 * (step % 7) for step in range(1, 1001)]
        steps = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
        x, y = self.plotted(steps)["training, mean of the last 20 steps"]
        self.assertEqual((x[0], x[-1], len(x)), (20, 1000, 981))
        for step in (20, 50, 1000):
            self.assertAlmostEqual(y[x.index(step)], sum(losses[step - 20:step]) / 20, places=12)
        self.assertIn("training, mean of the last 2 steps", self.plotted(steps[:3]))
        self.assertEqual(list(self.plotted(steps[:1])), ["training, each step"])

    def test_skipped_steps_are_no_part_of_the_mean(self):
        steps = [{"step": step, "loss": 99.0 if step == 4 else 2.0, "skipped": step == 4} for step in range(1, 101)]
        x, y = self.plotted(steps)["training, mean of the last 2 applied steps"]
        self.assertEqual((set(y), 4 in x), ({2.0}, False))

    def test_the_validation_says_of_how_many_targets_it_is(self):
        steps, event = [{"step": 1, "loss": 2.0}], {"step": 1, "loss": 1.5, "bits_per_byte": 2.25, "targets": 131072}
        self.assertIn("validation, last 1.5000 (2.250 bits a byte), of 131,072 targets of 206,117",
                      self.plotted(steps, [event | {"set_targets": 206117}]))
        self.assertIn("validation, last 1.5000 (2.250 bits a byte), of 131,072 targets",
                      self.plotted(steps, [event | {"set_targets": 131072}]))
        self.assertIn("validation, last 1.5000", self.plotted(steps, [{"step": 1, "loss": 1.5}]))


class Arms(ReportTest):
    # Catches: parts that follow from the strategy (gradient), parts that differ nowhere (b1), a lost v.
    def test_labels_say_what_tells_arms_apart_and_no_more(self):
        study = self.study(whole_study())
        labels = [arm.label() for arm in study.arms]
        self.assertEqual((len(labels), len(set(labels))), (26, 26))
        self.assertIn("bf16_sr, v stochastic, b2 0.999, lr 0.001", labels)
        self.assertIn("collage_plus, b2 0.999, lr 0.001", labels)
        self.assertEqual(study.baseline.label(), "mixed, b2 0.95, lr 0.001")  # the most common settings
        self.assertEqual(self.study(whole_study(), labels[3]).baseline.label(), labels[3])
        self.assertEqual([arm.label() for arm in self.study(arms_of({"bf16_sr": {1: 3.0}})).arms], ["bf16_sr"])

    def test_each_strategy_is_taken_at_its_best_rate_and_an_edge_is_named(self):
        runs = [make_run(strategy, seed, loss + spread * seed, rate=rate, varied=("strategy", "rate"))
                for strategy, spread, losses in (("mixed", 0.01, (3.2, 3.0, 3.1)), ("bf16_sr", 0.03, (3.3, 3.2, 3.05)))
                for rate, loss in zip((0.001, 0.002, 0.004), losses) for seed in (1, 2)]
        table = tables_of(self.study(runs))[-1]
        self.assertEqual(table.heading, "At the best learning rate")
        self.assertEqual(table.rows[0][:5], ["mixed", "0.001, 0.002, 0.004", "0.002", "2", "3.0150"])
        self.assertEqual(table.rows[1][2:7], ["0.004 (edge)", "2", "3.0950", "0.0212", "+0.0800"])
        self.assertIn("1 comparison in this table", " ".join(table.notes))

    # Catches: a rate at which a seed diverged winning by its surviving seed.
    def test_a_rate_with_a_diverged_run_is_not_the_best(self):
        runs = [make_run("mixed", seed, loss, rate=rate, state=state, varied=("strategy", "rate"))
                for seed, rate, loss, state in ((1, 0.001, 3.2, "completed"), (2, 0.001, 3.2, "completed"),
                                                (1, 0.002, 3.0, "completed"), (2, 0.002, 9.0, "diverged"))]
        self.assertEqual(tables_of(self.study(runs))[-1].rows[0][2], "0.001 (edge)")

    def test_arms_at_other_settings_are_compared_with_the_baseline_strategy_there(self):
        tables = tables_of(self.study(whole_study()))
        same = {row[0]: row[1] for row in tables[1].rows}
        self.assertEqual(same["bf16_sr, v stochastic, b2 0.999, lr 0.001"], "mixed, b2 0.999, lr 0.001")
        self.assertEqual(len(tables[0].rows), 26)


class Pictures(ReportTest):
    # Catches: infinite or huge losses that set the scale, diverged runs that silently lack.
    def test_diverged_runs_are_named_and_leave_the_scale_alone(self):
        runs = arms_of({"mixed": {1: 4.0, 2: 4.1}, "bf16": {1: 4.2}})
        runs += arms_of({"bf16": {2: 4.0}, "fp32": {1: 4.0, 2: 4.0}}, state="diverged")
        study = self.study(runs)
        for plot in (plot_loss, plot_loss_zoom, plot_learning_rate):
            axes = self.figure_of(plot, study)[0]
            texts = " ".join(text.get_text() for text in axes.texts)
            self.assertIn("2/2 diverged" if plot is not plot_learning_rate else "2 diverged", texts)
            self.assertLess(max(axes.get_ylim()), 13)
        low, top = self.figure_of(plot_loss, self.study(runs[-2:]))[0].get_ylim()  # nothing but diverged runs
        self.assertTrue(low < 8 and 10 < top < 13, f"{low} to {top}")

    # Catches: more lines in a panel than can be told apart, an arm left out when arms are spread, one colour for two.
    def test_many_arms_are_spread_over_panels_without_losing_one(self):
        study = self.study(whole_study())
        panels = panels_of(study.arms, study.keys)
        self.assertLessEqual(max(len(panel.arms) for panel in panels), MOST_LINES)
        spread = [arm.label() for panel in panels for arm in panel.arms]
        self.assertEqual(sorted(spread), sorted(arm.label() for arm in study.arms))
        for panel in panels:
            self.assertEqual(len({look[2:4] for look in panel.looks()}), len(panel.arms))
        self.assertEqual(len(set(COLOURS.values())), len(COLOURS))

    def test_far_outliers_do_not_flatten_the_rest(self):
        self.assertLess(robust_top([3.0, 3.01, 3.02, 3.03, 900.0]), 3.3)
        self.assertEqual(robust_top([3.0, 3.01, 3.02]), 3.02)


class Files(ReportTest):
    # Catches: dates, versions and hash orders in the output; a page that needs the net; pictures that are blank.
    def test_the_same_csv_gives_the_same_bytes_and_the_page_holds_everything(self):
        write_study(self.folder, whole_study())
        outputs = []
        for _ in range(2):
            done = self.run_report("--title", "A <study>")
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, f"{self.folder / 'report.html'}\n", ""))
            outputs.append({path.name: path.read_bytes() for path in self.folder.iterdir()})
        self.assertEqual(outputs[0], outputs[1])
        for name in PICTURES:
            pixels = image.imread(self.folder / name)
            self.assertTrue(500 < pixels.shape[0] < 4000 and 900 < pixels.shape[1] < 4000, f"{name}: {pixels.shape}")
            self.assertGreater(pixels[..., :3].std(), 0.05)
        page = outputs[0]["report.html"].decode()
        self.assertEqual(re.findall(r"https?:|<script|<link|@import|url\(", page), [])
        self.assertEqual(len(re.findall(r'src="data:image/png;base64,', page)), page.count("src="))
        self.assertEqual(page.count("<figcaption>"), len(PICTURES))
        for text in ("A &lt;study&gt;", "10 steps in a row skipped: gradient not finite", "bf16_kahan", "1f0c2ab"):
            self.assertIn(text, page)
        self.assertEqual(json.loads(outputs[0]["report.json"])["baseline"], "mixed, b2 0.95, lr 0.001")

    # Catches: figures that need a curve, a loss or a bar to exist.
    def test_a_study_in_which_every_run_failed_still_has_its_report(self):
        runs = [(row, []) for row, _ in arms_of({"mixed": {1: 3.0}, "bf16": {1: 3.0}}, state="failed", reason="killed")]
        for row, _ in runs:
            row |= dict.fromkeys(("tokens_per_second", "seconds_per_step", "bytes_per_parameter", "edq"), "")
        write_study(self.folder, runs)
        self.assertEqual(self.run_report().returncode, 0)
        self.assertIn("killed", (self.folder / "report.html").read_text(encoding="utf-8"))

    def test_errors_are_one_line_that_names_file_and_cure(self):
        def refuse(message, change, *arguments):
            write_study(self.folder, arms_of({"mixed": {1: 3.0}, "bf16": {1: 3.1}}))
            change()
            done = self.run_report(*arguments)
            self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (2, "", 1), done.stderr)
            self.assertRegex(done.stderr, f"^error: .*{message}")
            self.assertFalse((self.folder / "summary.md").exists())

        def edit(name, old, new):
            path = self.folder / name
            text = path.read_text(encoding="utf-8")
            self.assertIn(old, text)
            path.write_text(text.replace(old, new, 1), encoding="utf-8")

        refuse(r"runs\.csv: no such file; `dither report RUN\.\.\.` writes it", (self.folder / "runs.csv").unlink)
        refuse(r"curves\.csv: no such file", (self.folder / "curves.csv").unlink)
        refuse(r"runs\.csv: no column edq_full; write it again", lambda: edit("runs.csv", "edq_full", "else"))
        refuse(r"runs\.csv: row 1: steps is 'many', needs a number", lambda: edit("runs.csv", ",400,", ",many,"))
        refuse(r"state is 'lost', needs one of completed, diverged", lambda: edit("runs.csv", "completed", "lost"))
        refuse(r"runs\.csv: no runs in it; name at least one", lambda: (self.folder / "runs.csv").write_text(
            ",".join(RUN_COLUMNS) + "\n", encoding="utf-8"))
        refuse(r"curves\.csv: run ghost is not in runs\.csv",
               lambda: edit("curves.csv", "\nmixed-nearest-b0.95-lr0.001-1", "\nghost"))
        refuse(r"--baseline 'none': no such arm; the arms are: mixed; bf16", lambda: None, "--baseline", "none")

    # Catches: a traceback instead of the cure, a package that is missed only after half of the report is written.
    def test_a_missing_package_is_named_before_anything_is_written(self):
        write_study(self.folder / "study", arms_of({"mixed": {1: 3.0}}))
        for package in ("matplotlib", "scipy"):
            stranger = self.folder / package / f"{package}.py"
            stranger.parent.mkdir()
            stranger.write_text(f"raise ModuleNotFoundError(name={package!r})\n", encoding="utf-8")
            done = run_script(REPORT, self.folder / "study",
                              environment=os.environ | {"PYTHONPATH": str(stranger.parent)})
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertRegex(done.stderr, f"^error: .*: {package} is missing, .* apt-get install .*\n$")
        self.assertEqual(sorted(path.name for path in (self.folder / "study").iterdir()), ["curves.csv", "runs.csv"])


    # Catches: apt's line where apt's packages are not seen.
    def test_a_virtual_environment_is_told_to_use_pip(self):
        write_study(self.folder / "study", arms_of({"mixed": {1: 3.0}}))
        venv = self.folder / "venv"
        (venv / "bin").mkdir(parents=True)
        (venv / "bin/python3").symlink_to(os.path.realpath(sys.executable))
        (venv / "pyvenv.cfg").write_text(f"home = {Path(os.path.realpath(sys.executable)).parent}\ninclude-system-site-packages = false\n",
                                         encoding="utf-8")
        done = subprocess.run([venv / "bin/python3", REPORT, self.folder / "study"], capture_output=True, text=True,
                              check=False)
        self.assertEqual(done.returncode, 2)
        self.assertRegex(done.stderr, "^error: .* is missing, .*; .*venv/bin/python3 -m pip install matplotlib scipy\n$")

    # Catches: a name that matplotlib takes for a formula: an error in mid-report, or a picture without the name.
    def test_a_dollar_in_a_name_is_a_dollar(self):
        write_study(self.folder, arms_of({"mixed": {1: 4.0}, "bf16": {1: 4.2}}))
        done = self.run_report("--title", r"a $\\frac{ b$")
        self.assertEqual((done.returncode, done.stderr), (0, ""))


class Rebuild(ReportTest):
    # Catches: a comparison that passes whatever is committed: a value of one curve, a digit of the summary, a cell of
    # the page.
    def test_a_committed_study_is_what_its_csv_files_make(self):
        write_study(self.folder, arms_of({"mixed": {1: 4.0, 2: 4.1}, "bf16": {1: 4.2, 2: 4.25},
                                          "bf16_sr": {1: 4.0, 2: 4.12}}))
        self.assertEqual(self.run_report("--title", "t", "--baseline", "bf16_sr").returncode, 0)
        page, curves, summary = self.folder / "page.md", self.folder / "curves.csv", self.folder / "summary.csv"
        page.write_text("Text.\n\n" + (self.folder / "summary.md").read_text(encoding="utf-8"), encoding="utf-8")
        done = run_script(REBUILD, self.folder, "--page", page)
        self.assertEqual(done.returncode, 0, done.stderr)

        page.write_text(page.read_text(encoding="utf-8").replace("+0.1650", "+0.1651"), encoding="utf-8")
        summary.write_text(summary.read_text(encoding="utf-8").replace("4.05", "4.06", 1), encoding="utf-8")
        with open(curves, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        rows[50]["loss"] = repr(float(rows[50]["loss"]) + 0.15)  # one bin of 100, one run of 6: 0.15 of a range of 6.8
        with open(curves, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, CURVE_COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        done = run_script(REBUILD, self.folder, "--page", page)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"loss\.png: RMS")
        self.assertRegex(done.stderr, r"summary\.csv, line 2: committed")
        self.assertRegex(done.stderr, r"page\.md: lacks the table of summary\.md that begins with '\| arm")
        self.assertNotRegex(done.stderr, r"summary\.md, line|throughput\.png")


if __name__ == "__main__":
    unittest.main()
