#!/usr/bin/env python3
"""Plots a run's metrics.jsonl as loss.png in the run's folder: loss, learning rate, and how much of each update
reached the stored weights (EDQ and imprecision).

    python3 scripts/plot_run.py runs/quickstart

Works while the run is going on. Needs matplotlib (Debian/Ubuntu: python3-matplotlib).
"""

import argparse
import json
import math
import sys
from pathlib import Path

SMOOTHING_SHARE = 0.02  # the mean is over this share of the steps: noise goes, the course stays
INK, FAINT, ACCENT, SECOND = "#1f3b57", "#b9c6d3", "#c8502d", "#3f8f6b"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="a run's folder, with metrics.jsonl in it")
    run = parser.parse_args().run
    try:
        import matplotlib
    except ImportError:
        # apt's packages are not seen from a virtual environment.
        cure = (f"{sys.executable} -m pip install matplotlib" if sys.prefix != sys.base_prefix
                else "Debian/Ubuntu: apt-get install python3-matplotlib")
        sys.exit(f"error: matplotlib is missing; {cure}")
    matplotlib.use("Agg")  # no display needed
    matplotlib.rcParams["text.parse_math"] = False  # a $ in a name is a $; no label here is a formula

    try:
        events = read_events(run / "metrics.jsonl")
        if not of_kind(events, "step"):
            sys.exit(f"error: {run / 'metrics.jsonl'}: no step yet, nothing to plot")
        plot(events, read_config(run / "config.json"), run / "loss.png")
    except OSError as failure:
        sys.exit(f"error: {failure}")
    print(run / "loss.png")


def read_events(path):
    """All complete lines: the last one may be cut where a run was killed or is being written."""
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if not isinstance(event, dict):
            continue
        if event.get("event") == "resume":  # what comes behind its step is said again
            events = [e for e in events if e.get("step", 0) <= event.get("step", 0)]
        events.append(event)
    return events


def read_config(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # it names the model in the title, no more


def of_kind(events, kind):
    return [event for event in events if event.get("event") == kind and "step" in event]


def series(events, field):
    """Steps and values of a field where it has one; a number that was not finite is null in the file."""
    pairs = [(event["step"], event[field]) for event in events if isinstance(event.get(field), (int, float))]
    return [step for step, _ in pairs], [value for _, value in pairs]


def trailing_means(values, span):
    """For each value but the first span - 1: the mean of the last `span` values, itself included."""
    return [math.fsum(values[end - span:end]) / span for end in range(span, len(values) + 1)]


def validation_label(evaluation):
    """What the last evaluation says: loss, bits per byte, and of how many targets."""
    label = f"validation, last {evaluation['loss']:.4f}"
    bits, targets, whole = (evaluation.get(field) for field in ("bits_per_byte", "targets", "set_targets"))
    label += f" ({bits:.3f} bits a byte)" if isinstance(bits, (int, float)) else ""
    label += f", of {targets:,} targets" if isinstance(targets, int) else ""
    return label + (f" of {whole:,}" if isinstance(whole, int) and whole > (targets or 0) else "")


def title_of(events, config):
    start = next((event for event in events if event.get("event") == "start"), {})
    model = config.get("model", {})
    shape = model.get("preset") or f"{model.get('layers', '?')} layers, {model.get('hidden', '?')} wide"
    parameters = start.get("parameters")
    size = f", {parameters / 1e6:,.1f} M parameters" if isinstance(parameters, (int, float)) else ""
    return f"{start.get('name', config.get('name', 'run'))}: {shape}{size}, strategy {start.get('strategy', '?')}"


def plot(events, config, output):
    from matplotlib import pyplot

    steps, evaluations = of_kind(events, "step"), of_kind(events, "evaluation")
    figure, (loss, rate, quality) = pyplot.subplots(
        3, 1, sharex=True, figsize=(9, 9), layout="constrained", height_ratios=[3, 1, 1.4]
    )
    figure.suptitle(title_of(events, config))
    plot_loss(loss, steps, evaluations)
    rate.plot(*series(steps, "learning_rate"), color=INK)
    rate.set_ylabel("learning rate")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    plot_quality(quality, steps)
    quality.set_xlabel("optimizer step")
    for axes in (loss, rate, quality):
        axes.grid(color="#e6e6e6", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    partial = output.with_suffix(".partial.png")
    figure.savefig(partial, dpi=130)
    partial.replace(output)


def plot_loss(axes, steps, evaluations):
    x, y = series(steps, "loss")
    axes.plot(x, y, color=FAINT, linewidth=0.8, label="training, each step")
    applied = [event for event in steps if not event.get("skipped")]
    x_mean, y_mean = series(applied, "loss")
    span = min(max(2, round(SMOOTHING_SHARE * len(y_mean))), len(y_mean))
    if span > 1:
        kind = "steps" if len(applied) == len(steps) else "applied steps"
        axes.plot(x_mean[span - 1:], trailing_means(y_mean, span), color=INK,
                  label=f"training, mean of the last {span} {kind}")
    finite = [event for event in evaluations if isinstance(event.get("loss"), (int, float))]
    x_validation, y_validation = series(finite, "loss")
    if finite:
        axes.plot(x_validation, y_validation, "o-", color=ACCENT, markersize=4, linewidth=1,
                  label=validation_label(finite[-1]))
    skipped = [event["step"] for event in steps if event.get("skipped")]
    if skipped:
        axes.plot(skipped, [min(y + y_validation, default=0)] * len(skipped), "x", color="black", label="skipped step")
    axes.set_ylabel("loss (nats a token)")
    axes.legend(frameon=False)


def plot_quality(axes, steps):
    x, edq = series(steps, "edq")
    if not edq:
        axes.text(0.5, 0.5, "not measured (logging.measure_every_steps 0)", ha="center", transform=axes.transAxes)
        axes.set_yticks([])
        return
    lines = axes.plot(x, edq, ".-", color=SECOND, label="EDQ, stored weight (1: nothing lost)")
    x_full, full = series(steps, "edq_full")
    if any(not math.isclose(a, b, rel_tol=1e-9) for a, b in zip(edq, full)):
        lines += axes.plot(x_full, full, ".--", color=INK, label="EDQ, whole state")
    axes.set_ylabel("EDQ (ratio)")
    axes.set_ylim(0, max(1.1, 1.05 * max(edq + full)))
    right = axes.twinx()
    lines += right.plot(*series(steps, "imprecision"), ".-", color=ACCENT, label="imprecision (unchanged weights)")
    right.set_ylabel("imprecision (%)")
    right.set_ylim(0, 100)
    right.spines["top"].set_visible(False)
    axes.legend(handles=lines, frameon=False, loc="center left", bbox_to_anchor=(0, 0.62))


if __name__ == "__main__":
    main()
