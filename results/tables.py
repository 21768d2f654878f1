"""The Markdown that stands between the markers of both READMEs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rows import ACCURACY, BASELINE, DELTA, FIRST_NUMBERS, SPEEDUP, headline, machine_of, machines

FIGURE = "results/figures/pareto.svg"

CAPTIONS = {
    "README.md": {
        "baseline": BASELINE,
        "empty": "No runs yet: `make run HW=all` fills this in.",
        "machine": "On **{cpu}** ({isa}), threads: {threads}; batch 1, 640×640; "
        "{images} images of COCO val2017.",
        "experiment": "Experiment",
        "ms": "CPU ms<br>executes in",
        "times": "× faster",
        "size": "MB<br>(× smaller)",
        "zeros": "Zeros, %",
        "reference": "reference",
        "images": "images",
        "figure": "Accuracy against size of the shipped files, coloured by speed-up",
        "other": "Speed on **{cpu}** ({isa}), threads: {threads}:",
        "coco128": "### coco128: the first table and now",
        "upper": "Upper line: the first table, compiled by hand. Lower line, bold: now.",
        "changed": "What changed in between: images are letterboxed to a square instead of a rectangle, they "
        "are the original JPEGs rather than re-encoded ones, sizes are bytes on disk rather than in memory, "
        "and the CPU is another one, so the milliseconds of the two lines do not compare.",
    },
    "README.ru.md": {
        "baseline": f"Исходная модель ({BASELINE})",
        "empty": "Запусков ещё нет: таблицу заполнит `make run HW=all`.",
        "machine": "На **{cpu}** ({isa}), потоков: {threads}; батч 1, 640×640; "
        "изображений COCO val2017: {images}.",
        "experiment": "Эксперимент",
        "ms": "CPU, мс<br>вычисляется в",
        "times": "× быстрее",
        "size": "МБ<br>(× меньше)",
        "zeros": "Нули, %",
        "reference": "эталон",
        "images": "изображений",
        "figure": "Точность и размер отправляемых файлов, цвет – ускорение",
        "other": "Скорость на **{cpu}** ({isa}), потоков: {threads}:",
        "coco128": "### coco128: первая таблица и сейчас",
        "upper": "Верхняя строка – первая таблица, составленная вручную; нижняя, жирная – сейчас.",
        "changed": "Что изменилось: изображения вписываются в квадрат, а не в прямоугольник, это исходные "
        "JPEG, а не пережатые, размеры – байты на диске, а не в памяти, и CPU другой, поэтому "
        "миллисекунды двух строк несравнимы.",
    },
}


def block(rows: pd.DataFrame, original: pd.DataFrame, readme: str) -> str:
    """Markdown between the markers of one README.

    Args:
        rows: results.csv.
        original: the first table, see ``results/original.csv``.
        readme: ``README.md`` or ``README.ru.md``, which decides the language.
    """
    say = CAPTIONS[readme]
    if rows.empty:
        return f"\n{say['empty']}\n"
    published, *others = machines(rows)
    shown = headline(rows)
    images = int(shown["images"].mode()[0])
    parts = [
        say["machine"].format(images=images, **machine_of(published)),
        _main_table(shown, images, say),
        f"![{say['figure']}]({FIGURE})",
    ]
    for group in others:
        parts += [say["other"].format(**machine_of(group)), _speed_table(group, say)]
    parts += [say["coco128"], say["upper"], _coco128_table(shown, original, say), say["changed"]]
    return "\n" + "\n\n".join(parts) + "\n"


def _main_table(shown: pd.DataFrame, images: int, say: dict[str, str]) -> str:
    head = [say["experiment"], "P", "R", "mAP50", "mAP50-95", "Δ, %"]
    head += [say[key] for key in ("ms", "times", "size", "zeros")]
    return _table(head, [_main_cells(row, images, say) for _, row in shown.iterrows()])


def _main_cells(row: pd.Series, images: int, say: dict[str, str]) -> list[str]:
    is_reference = row["experiment"] == BASELINE
    name = _link(row, say)
    if row["images"] != images:
        name += f"<br>({row['images']:.0f} {say['images']})"
    ms, times = _speed(row)
    size = number(row["size_mb"], ".2f")
    return [
        name,
        *(number(row[key], ".3f") for key in ACCURACY[:3]),
        number(row["map50_95"], ".4f"),
        say["reference"] if is_reference else _interval(100 * row[DELTA], "+z.2f"),
        ms if ms == "–" else f"{ms}<br><sub>{row['execution_precision']}</sub>",
        times,
        size if is_reference else f"{size}<br>({number(row['size_ratio'], '.2f')}×)",
        number(100 * row["sparsity"], ".2f"),
    ]


def _speed_table(group: pd.DataFrame, say: dict[str, str]) -> str:
    lines = [[_link(row, say), *_speed(row)] for _, row in group.iterrows()]
    return _table([say["experiment"], say["ms"].partition("<br>")[0], say["times"]], lines)


def _coco128_table(shown: pd.DataFrame, original: pd.DataFrame, say: dict[str, str]) -> str:
    ms, size = (say[key].partition("<br>")[0] for key in ("ms", "size"))
    head = ["P", "R", "mAP50", "mAP50-95", ms, size, say["zeros"]]
    forms = [".3f"] * 4 + [".1f", ".2f", ".2f"]
    after = [f"coco128_{key}" for key in ACCURACY] + FIRST_NUMBERS[4:]
    percent = np.array([1] * 6 + [100])
    measured = shown.set_index("experiment")
    lines = []
    for _, row in original.iterrows():
        name = row["experiment"]
        was = percent * row[FIRST_NUMBERS].astype(float)
        now = percent * measured[after].reindex([name]).iloc[0]
        pairs = zip(was, now, forms, strict=True)
        cells = [f"{number(a, form)}<br>**{number(b, form)}**" for a, b, form in pairs]
        lines.append([say["baseline"] if name == BASELINE else name, *cells])
    return _table([say["experiment"], *head], lines)


def _speed(row: pd.Series) -> tuple[str, str]:
    ms = number(row["latency_ms"], ".1f")
    return ms, "1" if row["experiment"] == BASELINE and ms != "–" else _interval(row[SPEEDUP], ".2f")


def _link(row: pd.Series, say: dict[str, str]) -> str:
    """The experiment's name, leading to its notebook: hw5_export → hw5_export/export.ipynb."""
    name = say["baseline"] if row["experiment"] == BASELINE else row["experiment"]
    folder = row["homework"]
    return f"[{name}]({folder}/{folder.partition('_')[2]}.ipynb)"


def _table(head: list[str], lines: list[list[str]]) -> str:
    rule = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])


def number(value: float, form: str) -> str:
    return "–" if pd.isna(value) else format(value, form).replace("-", "−")


def _interval(values: pd.Series, form: str) -> str:
    if values.isna().any():
        return "–"
    value, low, high = (number(v, form) for v in values)
    return f"{value}<br><sub>[{low}, {high}]</sub>"
