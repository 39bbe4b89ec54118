"""report.html: tables, figures and where they come from, with everything it needs inside."""

import base64
import html

from figures import FIGURES
from study import short
from tables import commits_of, facts_of, number

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
    "diverged": "The final loss is not finite, or above the first step's in a run that began at step 1, or too many "
                "steps in a row were skipped. Losses of skipped steps do not count.",
    "not comparable": "Another tokenizer, other validation data or other targets: the two losses measure different "
                      "things, so there is no difference to show. Where the judged text is the same, bits per byte are "
                      "compared instead.",
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
