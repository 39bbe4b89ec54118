"""The five figures, one function each: curves over the steps, final losses, speed and memory."""

from collections import defaultdict
from statistics import fmean, median

from matplotlib.ticker import EngFormatter

from panels import DASHES, Panel, colour_of, legend_width, mark, panels_of, robust_top, save_figure
from study import RATE, rate_groups, run_key


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


def curve_column(study):
    """What the figures of losses draw: nats a token of several tokenizers do not compare, bits per byte do."""
    return "bits_per_byte" if study.loss == "bits_per_byte" else "loss"


def reason_against(arm, column):
    """Why a curve of the arm cannot stand beside the baseline's; "" if it can."""
    return arm.unlike.get({"loss": "train_loss"}.get(column, column), "")


def draw_curves(axes, study, panel, column, axis="step"):
    left_out = {}
    for arm, _, colour, dash, marker in panel.looks():
        if reason := reason_against(arm, column):
            left_out.setdefault(reason, []).append(arm.label(without=panel.said))
        else:
            x, mean, low, high = curve_of(study, arm, column, axis, smooth=column == "loss")
            lone = "." if len(x) == 1 or column == "bits_per_byte" else None
            axes.plot(x, mean, color=colour, linestyle=dash, linewidth=1.5, marker=lone)
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        if column == "loss" and not reason_against(arm, "validation_loss"):
            x, mean, _, _ = curve_of(study, arm, "validation_loss", axis)
            axes.plot(x, mean, marker, color=colour, markersize=4.5, markeredgecolor="white", markeredgewidth=0.5)
    ends = [line.get_xdata()[-1] for line in axes.lines if len(line.get_xdata())]
    axes.set_xlim(0, 1.02 * max(ends, default=1))
    if left_out:
        said = "\n".join(f"not comparable, {reason}: {'; '.join(labels)}" for reason, labels in left_out.items())
        axes.text(0.02, 0.02, said, fontsize=7.5, va="bottom", transform=axes.transAxes)
    elif not ends:
        axes.text(0.5, 0.5, "not measured", ha="center", color="#666666", transform=axes.transAxes)


def curve_name(study):
    return "bits per byte" if study.loss == "bits_per_byte" else "loss (nats a token)"


def curve_title(study, what):
    if study.loss == "bits_per_byte":
        return f"{what}: validation, in bits per byte as the tokens differ (mean over seeds; bands: least to greatest)"
    return f"{what} (lines: training, mean over seeds and three bins; bands: least to greatest; marks: validation)"


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


def fit_losses(axes, study, panel, share):
    """Scale for the steps after `share` of a run. A healthy loss never rises far above its start: more is cut off."""
    start, shown, column = [], [], curve_column(study)
    arms = [arm for arm in panel.arms if not reason_against(arm, column)]
    for arm in [arm for arm in arms if arm.count("completed")] or arms:
        x, _, low, high = curve_of(study, arm, column, smooth=column == "loss")
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
        draw_curves(axes, study, panel, curve_column(study), axis)
        fit_losses(axes, study, panel, share=0)
        mark_diverged(axes, study, panel, axis)
        axes.set_xlabel({"step": "optimizer step", "tokens": "tokens", "seconds": "time in steps (s)"}[axis])
        axes.set_ylabel(curve_name(study))
        if axis == "tokens":
            axes.xaxis.set_major_formatter(EngFormatter(sep=" "))

    plot_curves(study, path, curve_title(study, "loss"), ["step", "tokens", "seconds"], draw)


def plot_loss_zoom(study, path):
    def draw(axes, panel, axis):
        draw_curves(axes, study, panel, curve_column(study))
        fit_losses(axes, study, panel, share=0.5)
        axes.set_xlim(left=axes.get_xlim()[1] / 2)
        (low, top), names = axes.get_ylim(), mark_diverged(axes, study, panel, "step")
        axes.set_ylim(low, top + 1.2 * names * (top - low))
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(curve_name(study))

    plot_curves(study, path, curve_title(study, "loss, last half"), ["step"], draw, width=8.5, height=4.2)


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


def comparable_losses(study, arm):
    """By seed; none where they cannot stand beside the baseline's."""
    return [] if arm.unlike.get(study.loss) else list(arm.losses.values())


def draw_sweep(axes, study, panel, groups):
    losses = [loss for group in groups for arm in group for loss in comparable_losses(study, arm)]
    low, top, y = min(losses, default=0), robust_top(losses), 1.0
    for index, (group, (_, _, colour, dash, marker)) in enumerate(zip(groups, panel.looks())):
        shift = 1.02 ** (index - (len(groups) - 1) / 2)  # so that error bars stand side by side
        shown = [arm for arm in group if comparable_losses(study, arm)]
        axes.errorbar([arm.rate * shift for arm in shown], [arm.mean for arm in shown], [arm.sd or 0 for arm in shown],
                      color=colour, linestyle=dash, marker=marker, markersize=5, linewidth=1.5, capsize=3)
        for arm in shown:
            seeds = list(arm.losses.values())
            axes.plot([arm.rate * shift] * len(seeds), seeds, "o", color=colour, alpha=0.45, markersize=3)
        for arm in group:
            diverged, reason = arm.count("diverged"), arm.unlike.get(study.loss)
            if reason:
                y -= 0.05
                said = f"{arm.label(without=panel.said)}: not comparable, {reason}"
                mark(axes, [arm.rate * shift], y, "x", said, colour, axes.get_xaxis_transform(), before=True)
            elif diverged or (arm.mean or 0) > top:
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
    axes.set_ylabel(study.loss_axis)
    axes.set_title(panel.title, loc="left", fontsize=10)
    panel.legend(axes)


def draw_dots(axes, study):
    losses = [loss for arm in study.arms for loss in comparable_losses(study, arm)]
    low, top = min(losses, default=0), robust_top(losses)
    margin = 0.06 * (top - low or 0.02)
    axes.set_xlim(low - margin, top + margin)
    axes.set_ylim(len(study.arms) - 0.4, -0.6)
    axes.set_yticks(range(len(study.arms)), [arm.label() for arm in study.arms], fontsize=8.5)
    for y, (arm, _, colour, _, marker) in enumerate(Panel(study.arms, {}).looks()):
        reason = arm.unlike.get(study.loss)
        if arm.losses and not reason:
            axes.plot(list(arm.losses.values()), [y] * len(arm.losses), "o", color=colour, alpha=0.5, markersize=4)
            axes.errorbar(arm.mean, y, xerr=arm.sd, color=colour, marker=marker, markersize=6, capsize=3)
        greatest = max(comparable_losses(study, arm), default=low)
        if reason:
            axes.text(0.02, y, f"not comparable: {reason}", va="center", fontsize=7.5, color=colour,
                      transform=axes.get_yaxis_transform())
        said = [f"up to {greatest:.2f}"] * (greatest > top + margin) + [arm.troubles] * bool(arm.troubles)
        if said:
            mark(axes, [1], y, "x" if arm.troubles else ">", ", ".join(said), colour, axes.get_yaxis_transform(),
                 before=False)
    if study.baseline.mean is not None:
        axes.axvline(study.baseline.mean, color=colour_of(study.baseline.strategy), linewidth=0.9, linestyle=DASHES[1])
        axes.set_title(f"every arm (dashed line: baseline, {study.baseline.label()})", loc="left", fontsize=10)
    axes.set_xlabel(study.loss_axis)


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
                 "and whether it is the same at equal time as at equal tokens. Each point of a line is the mean over a "
                 "bin and its two neighbours (at the ends, one). Data: curves.csv."),
    "loss_zoom.png": (plot_loss_zoom, "The last half, with a scale of its own: differences smaller than the bands are "
                      "within the spread of the seeds. Data: curves.csv."),
    "learning_rate.png": (plot_learning_rate, "Final loss, seed by seed: compare each strategy at its own best "
                          "learning rate, and distances with the error bars (sd). Data: runs.csv, summary.csv."),
    "quality.png": (plot_quality, "What became of the intended updates: an EDQ below 1 is descent that rounding took "
                    "away; what the second panel has above the first, extra components kept. Data: curves.csv."),
    "throughput.png": (plot_throughput, "What a strategy costs: speed on this machine, and bytes of weight, gradient "
                       "and optimizer state for each parameter. Data: runs.csv."),
}
