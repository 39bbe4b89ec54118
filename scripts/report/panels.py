"""What all figures share: where axes stand, which arms share a panel, what an arm looks like.

Axes stand at fixed places, in whole tenths of an inch and so (DPI) in whole pixels: another version of matplotlib moves
no curve, at most it draws other glyphs.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from study import STRATEGY, short

# Tones that stay apart for colour-blind eyes (Okabe and Ito's eight, without the pale yellow, and four of Tol's).
COLOURS = {"mixed": "#000000", "mixed_autocast": "#8c8c8c", "fp32": "#332288", "bf16": "#d55e00", "bf16_sr": "#0072b2",
           "bf16_kahan": "#cc79a7", "collage_light": "#e69f00", "collage_plus": "#009e73", "split32": "#56b4e9",
           "bf16_fp32_states": "#882255", "dqt": "#999933"}
MARKERS = dict(zip(COLOURS, "osDX^vP<>dh"))  # a second sign of the strategy, for prints without colour
DASHES = ["-", (0, (5, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1))]
MOST_LINES = 12  # in one panel; more arms are spread over panels by what varies
LEFT, TOP, BOTTOM, BESIDE, BETWEEN, RIGHT = 1.0, 1.1, 0.6, 0.8, 1.0, 0.9
DPI = 130


def save_figure(study, path, subtitle, heights, width, draw, left=LEFT, columns=1, beside=BESIDE, right=RIGHT):
    """Rows of panels of the given heights; draw(panels) fills them. `left` has the tick labels, `right` the legends."""
    left, right, heights = tenths(left), tenths(right), [tenths(height) for height in heights]
    across = left + columns * width + (columns - 1) * beside + right
    down = TOP + sum(heights) + (len(heights) - 1) * BETWEEN + BOTTOM
    # A millionth more: versions differ in how they cut 1611.9999 pixels.
    figure = Figure(figsize=(across + 1e-6, down + 1e-6))
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


def mark(axes, xs, y, sign, text, colour, transform, before):
    """Signs at the edge of the axes with a text before or after them: what the scale cannot show is not left out."""
    axes.plot(xs, [y] * len(xs), sign, color=colour, markeredgewidth=1.8, transform=transform, clip_on=False)
    axes.annotate(text, (min(xs) if before else max(xs), y), xycoords=transform, xytext=(-7 if before else 7, 0),
                  textcoords="offset points", ha="right" if before else "left", va="center", fontsize=7.5, color=colour)


def robust_top(losses):
    """Where an axis of losses may end: far outliers would leave the rest no room, so they are named at the edge."""
    ordered = sorted(losses) or [0.0, 1.0]
    best, quartile = ordered[0], ordered[(3 * len(ordered)) // 4]
    return min(ordered[-1], best + max(8 * (quartile - best), 0.05 * abs(best)))
