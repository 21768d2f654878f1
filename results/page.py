"""results/report.html: what to take on each CPU, all columns of all rows, figures; one file, no network."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

import pandas as pd

from captions import CAPTIONS
from modelcompression.goals import winner
from rows import FIGURES, machine_name, machines
from tables import number

PAGE = "results/report.html"
TEMPLATE = Path(__file__).with_name("report.template.html")


@dataclass(frozen=True)
class Column:
    """A column of the page.

    Args:
        name: of the column in results.csv that it is sorted by.
        title: its heading.
        meaning: what the page says about it.
        form: format of a number; empty for text.
        scale: what a number is multiplied by.
        interval: whether ``name``_lo and ``name``_hi are its 95 % interval.
    """

    name: str
    title: str
    meaning: str
    form: str = ""
    scale: float = 1
    interval: bool = False


COLUMNS_SHOWN = [
    Column("experiment", "Experiment", "Name of the row; its notebook is in the homework's folder."),
    Column(
        "map50_95_delta", "Δ mAP50-95, %", "Relative change of mAP50-95 to the original model measured in "
        "the same run on the same images, with a paired bootstrap 95 % interval.", "+z.2f", 100, True,
    ),
    Column("size_mb", "MB", "Bytes of the files one would ship, in units of 2^20 bytes.", ".2f"),
    Column("size_ratio", "× smaller", "Size of the original checkpoint divided by that.", ".2f"),
    Column(
        "speedup", "× faster", "Median ratio of forward passes to the original model (eager PyTorch), timed "
        "in alternation in one process, with a bootstrap 95 % interval.", ".2f", 1, True,
    ),
    Column("latency_ms", "ms", "Median of one forward pass of one image, without decoding and NMS.", ".1f"),
    Column("latency_p90_ms", "ms, p90", "90th percentile of the same.", ".1f"),
    Column("baseline_latency_ms", "ms, original", "Median of the original model in the same process.", ".1f"),
    Column("homework", "Homework", "Folder of the notebook."),
    Column("map50_95", "mAP50-95", "Mean average precision over IoU 0.5 … 0.95 on COCO val2017.", ".4f"),
    Column("map50", "mAP50", "Mean average precision at IoU 0.5.", ".3f"),
    Column("precision", "P", "Precision at the confidence of the greatest mean F1.", ".3f"),
    Column("recall", "R", "Recall at the same confidence.", ".3f"),
    Column("coco128_map50_95", "coco128 mAP50-95", "On coco128, which calibration and tuning use.", ".4f"),
    Column("coco128_map50", "coco128 mAP50", "On coco128.", ".3f"),
    Column("coco128_precision", "coco128 P", "On coco128.", ".3f"),
    Column("coco128_recall", "coco128 R", "On coco128.", ".3f"),
    Column("sparsity", "Zeros, %", "Exact zeros among the convolution weights as shipped.", ".2f", 100),
    Column("bits_per_weight", "Bits a weight", "Bits of the shipped files for each weight.", ".2f"),
    Column("runtime", "Runtime", "What executes the model."),
    Column("execution_precision", "Executes in", "Number format that the CPU computes in."),
    Column("cpu", "CPU", "Model of the CPU that the times belong to."),
    Column("isa", "Instructions", "The widest instruction set of that CPU which matters here."),
    Column("threads", "Threads", "Threads of each detector."),
    Column("images", "Images", "Images of COCO val2017 that the accuracy is measured on.", ".0f"),
    Column("dataset", "Set", "Name of that set of images."),
    Column("finished", "Finished", "When the run ended (UTC)."),
    Column("git_commit", "Commit", "Of this repository; -dirty: with changes that were not committed."),
    Column("run_id", "Run", "Its identifier in MLflow."),
    Column("versions", "Versions", "Of the packages that matter."),
]  # fmt: skip


# Columns that results.csv may have or not; they stand behind the speed-up.
COLUMNS_LATER = [
    Column(
        "confirmed_loss_bound", "Loss at most, %", "Confirmed: with 95 % confidence, mAP50-95 falls by at "
        "most this share of the original's; – where nobody has confirmed the row.", ".2f", 100,
    ),
    Column(
        "confirmed_map50_95_delta", "Δ confirmed, %", "The change of mAP50-95, measured again from the file "
        "on more photographs, with its 95 % interval.", "+z.2f", 100, True,
    ),
    Column("confirmed_images", "Photographs", "How many it was confirmed on.", ".0f"),
    Column(
        "confirmed_speedup", "× confirmed", "Median ratio of forward passes in several fresh processes, with "
        "a 95 % interval over processes and pairs.", ".2f", 1, True,
    ),
    Column(
        "pipeline_speedup", "× JPEG to boxes", "The same ratio for all that an application waits for: "
        "decoding, scaling, the forward pass and non-maximum suppression.", ".2f", 1, True,
    ),
    Column(
        "confirmed_pipeline_speedup", "× JPEG to boxes, confirmed", "That ratio in several fresh processes.",
        ".2f", 1, True,
    ),
]  # fmt: skip
TILES = {"size_ratio": "smallest file", "speedup": "fastest", "both": "small and fast"}
LOSS = 0.03
OPPONENT = "Ultralytics export"  # how the rows begin that a user gets in one line


def columns_of(rows: pd.DataFrame) -> list[Column]:
    """The columns that the page shows of these rows."""
    place = [column.name for column in COLUMNS_SHOWN].index("speedup") + 1
    there = [column for column in COLUMNS_LATER if column.name in rows and rows[column.name].notna().any()]
    return [*COLUMNS_SHOWN[:place], *there, *COLUMNS_SHOWN[place:]]


def page(rows: pd.DataFrame, figures: dict[str, str], gallery: bytes | None) -> str:
    """HTML of the whole page.

    Args:
        rows: results.csv.
        figures: file name → SVG, see ``plots.figures``.
        gallery: JPEG, see ``gallery.py``; None: not drawn yet.
    """
    names = [machine_name(group.iloc[0]) for group in machines(rows)]
    say = CAPTIONS["README.md"]
    pictures = [
        _figure("svg+xml", figures[path].encode(), say["figures"][name]) for name, path in FIGURES.items()
    ]
    if gallery:
        pictures.append(_figure("jpeg", gallery, say["gallery"]))
    columns = columns_of(rows)
    return Template(TEMPLATE.read_text(encoding="utf8")).substitute(
        homeworks="".join(f"<option>{escape(name)}</option>" for name in sorted(rows["homework"].unique())),
        machines="".join(f"<option>{escape(name)}</option>" for name in names),
        dashboard="\n".join(map(_machine, machines(rows))),
        head="".join(map(_heading, columns)),
        rows="\n".join(_row(row, columns) for _, row in rows.iterrows()),
        figures="\n".join(pictures),
        columns="\n".join(f"<dt>{escape(c.title)}</dt><dd>{escape(c.meaning)}</dd>" for c in columns),
    )


def _machine(rows: pd.DataFrame) -> str:
    """What to take on one CPU: a tile for each goal, and one for what a user gets without this project."""
    chosen = {title: winner(rows, gain, LOSS) for gain, title in TILES.items()}
    others = rows[rows["experiment"].str.startswith(OPPONENT)].dropna(subset="speedup")
    if len(others):
        chosen["for comparison"] = others.loc[others["speedup"].idxmax()]
    tiles = "".join(_tile(title, row) for title, row in chosen.items())
    return f'<h3>{escape(machine_name(rows.iloc[0]))}</h3>\n<ul class="tiles">{tiles}</ul>'


def _tile(title: str, row: pd.Series | None) -> str:
    if row is None:
        return f'<li><b>{title}</b><span class="name">nothing loses as little</span></li>'
    facts = [_fact(row, "size_mb", ".2f", " MB"), _fact(row, "speedup", ".2f", "× the speed")]
    if not pd.isna(row.get("pipeline_speedup")):
        facts.append(_fact(row, "pipeline_speedup", ".2f", "× the speed, JPEG to boxes"))
    bound = row.get("confirmed_loss_bound")
    delta, low, high = (number(100 * row[f"map50_95_delta{end}"], "+z.1f") for end in ("", "_lo", "_hi"))
    lost = f"mAP50-95 {delta} % [{low}, {high}], {row['images']:.0f} photographs, not confirmed"
    if not pd.isna(bound):
        lost = f"loses at most {number(100 * bound, '.1f')} %, {row['confirmed_images']:.0f} photographs"
    body = "".join(f"<span>{fact}</span>" for fact in facts)
    name = f'<span class="name">{escape(row["experiment"])}</span>'
    return f"<li><b>{title}</b>{name}{body}<small>{lost}</small></li>"


def _fact(row: pd.Series, name: str, form: str, unit: str) -> str:
    """A number, the confirmed one where there is one."""
    confirmed = row.get(f"confirmed_{name}")
    return number(row[name] if pd.isna(confirmed) else confirmed, form) + unit


def _heading(column: Column) -> str:
    kind = " data-number" if column.form else ""
    button = f'<button type="button">{escape(column.title)}</button>'
    return f'<th scope="col" aria-sort="none"{kind} title="{escape(column.meaning)}">{button}</th>'


def _row(row: pd.Series, columns: list[Column]) -> str:
    name, *others = (_cell(row, column) for column in columns)
    name = name.replace("<td", '<th scope="row"', 1).replace("</td>", "</th>")
    homework, machine = escape(row["homework"]), escape(machine_name(row))
    kinds = [] if pd.isna(row.get("confirmed_loss_bound")) else ["confirmed"]
    kinds += ["opponent"] if row["experiment"].startswith(OPPONENT) else []
    data = f'data-homework="{homework}" data-machine="{machine}" data-kind="{" ".join(kinds)}"'
    return f"<tr {data}>{name}{''.join(others)}</tr>"


def _cell(row: pd.Series, column: Column) -> str:
    value = row[column.name]
    if not column.form:
        return f'<td data-value="{escape(value)}">{escape(value)}</td>'
    if pd.isna(value):
        return '<td class="number">–</td>'
    text = number(column.scale * value, column.form)
    if column.interval:
        low, high = (number(column.scale * row[f"{column.name}_{end}"], column.form) for end in ("lo", "hi"))
        text += f" <small>[{low}, {high}]</small>"
    return f'<td class="number" data-value="{value:.6g}">{text}</td>'


def _figure(kind: str, data: bytes, alt: str) -> str:
    if kind == "svg+xml":  # text is shorter so than in base64
        source = f"data:image/{kind},{quote(data, ' /:=;')}"
    else:
        source = f"data:image/{kind};base64,{b64encode(data).decode()}"
    image = f'<img src="{source}" alt="{escape(alt)}">'
    box = f'<div class="scroll" role="region" aria-label="{escape(alt)}" tabindex="0">{image}</div>'
    return f"<figure>{box}<figcaption>{escape(alt)}</figcaption></figure>"
