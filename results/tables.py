"""The Markdown that stands between the markers of both READMEs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from modelcompression.cards import cards
from modelcompression.goals import (
    CONFIRMED,
    DELTA,
    GOALS,
    PIPELINE,
    SPEEDUP,
    evidence,
    is_confirmed,
    loss_limits,
    opponent,
    winner,
)
from rows import (
    ACCURACY,
    BASELINE,
    CONFIRMED_IMAGES,
    FIGURES,
    FIRST_NUMBERS,
    GALLERY,
    MACHINE,
    headline,
    machine_of,
    machines,
    of_this_network,
    over_opponent,
)

ELSEWHERE = [("speedup", 0.03), ("both", 0.03)]  # the goals that another machine's line names
ANSWERS = [("size_ratio", 0.03), *ELSEWHERE, ("speedup", 0.01)]  # those of the first table
SAME_OUTPUT = 0.002  # an interval narrower than this belongs to a model with the original's output

CAPTIONS = {
    "README.md": {
        "gain": "**What do I gain, what do I lose?** On **{cpu}** ({isa}), threads: {threads}, in forward "
        "passes and from JPEG to boxes:",
        "confirmed": "Every number of this table is confirmed: on {images} images of COCO val2017, from the "
        "shipped file, and in five fresh processes (`make confirm`).",
        "units": "Δ is the relative change of accuracy (mAP50-95); brackets hold 95 % intervals. *Lost at "
        "most* is 95 % certain. [How to read the tables](docs/tables.md).",
        "unconfirmed": "None of this is confirmed yet: the bounds are those of {images} images, the speeds "
        "those of one process. `make confirm` looks again, at 1000 images and in fresh processes.",
        "goal": "Goal",
        "take": "Take",
        "goals": {
            "size_ratio": "smallest file",
            "speedup": "fastest",
            "both": "small and fast",
            0.01: "nothing lost",
            0.03: "loss ≤ 3 %",
        },
        "opponent": "without this project: the fastest export that loses nothing",
        "nobody": "no model meets this",
        "limit": "lost at most, %",
        "pipeline": "× faster,<br>JPEG → boxes",
        "every": "All goals. One is met if the loss is within it for sure (one-sided 95 % bound), not by the "
        "estimate; *nothing lost* is a bound of 1 %.",
        "trust": "**Can I trust it?** The tables below are measured on {images} images of COCO val2017 that "
        "nothing was calibrated or tuned on. Each model is compared with the original on the same images; "
        "intervals come from resampling these, for speed from pairs timed in alternation. A loss is within "
        "the noise if its interval reaches 0: so it is for {same} of {count} models. A typical interval is "
        "±{half} %; losses smaller than that stay unseen, and the best of many is a little flattered: hence "
        "the confirmation. [Tests](tests/test_accuracy.py) hold the metrics against ultralytics' own "
        "validation and COCOeval.",
        "gallery": "What the original, the smallest and the fastest model see (loss ≤ 3 %), each named above "
        "its column: only what differs from the original is labelled",
        "more": "[results/report.html](results/report.html) has every column of every run, to sort and to "
        "filter: download it and open it in a browser, it needs no network.",
        "small": "**Why not a network that was small from the start?** In {least[size_mb]:.2f} MB "
        "{least[link]} has an mAP50-95 of {least[map50_95]:.3f}, {best[link]} in {best[size_mb]:.2f} MB one "
        "of {best[map50_95]:.3f}, {more}.",
        "small and fast": "On {cpu} ({isa}) {nano[link]} is {nano[speedup]:.2f}× as fast as the original, "
        "{fast[link]} {fast[speedup]:.2f}× with an mAP50-95 of {fast[map50_95]:.3f} against "
        "{nano[map50_95]:.3f}.",
        "all": "### All experiments",
        "figures": {
            "pareto": "Two scatter plots: change of mAP50-95 against the size of the shipped files and "
            "against the speed-up; the models that no other beats are numbered and listed",
            "forest": "Change of mAP50-95 of every experiment with its 95 % interval, by homework",
            "speed": "Speed-up of every experiment with its 95 % interval, by machine",
        },
        "baseline": BASELINE,
        "empty": "No runs yet: `make run HW=all` fills this in.",
        "machine": "On **{cpu}** ({isa}), threads: {threads}; batch 1, 640×640; "
        "{images} images of COCO val2017.",
        "experiment": "Experiment",
        "ms": "CPU ms: original → own<br>executes in",
        "times": "× faster",
        "milliseconds": "CPU ms",
        "over": "× over {name}",
        "again": "confirmed",
        "size": "MB<br>(× smaller)",
        "zeros": "Zeros, %",
        "reference": "reference",
        "images": "images",
        "other": "On **{cpu}** ({isa}), threads: {threads}: {found}. [The report](results/report.html) has "
        "every row.",
        "coco128": "### coco128: the first table and now",
        "upper": "Upper line: the first table, compiled by hand. Lower line, bold: now.",
        "changed": "What changed in between: images are letterboxed to a square instead of a rectangle, they "
        "are the original JPEGs rather than re-encoded ones, sizes are bytes on disk rather than in memory, "
        "and the CPU is another one, so the milliseconds of the two lines do not compare.",
    },
    "README.ru.md": {
        "gain": "**Что я выигрываю и что теряю?** На **{cpu}** ({isa}), потоков: {threads}, за прямой проход "
        "и от JPEG до рамок:",
        "confirmed": "Каждое число этой таблицы подтверждено: на изображениях COCO val2017 ({images}), по "
        "отправляемому файлу и в пяти новых процессах (`make confirm`).",
        "units": "Δ – относительное изменение точности (mAP50-95); в скобках – интервалы 95 %. "
        "*Теряется не более* – с уверенностью 95 %. [Как читать таблицы](docs/tables.ru.md).",
        "unconfirmed": "Здесь ещё ничего не подтверждено: границы – по изображениям ({images}), скорости – "
        "по одному процессу. `make confirm` проверяет ещё раз, на 1000 изображений и в новых процессах.",
        "goal": "Цель",
        "take": "Что взять",
        "goals": {
            "size_ratio": "наименьший файл",
            "speedup": "наибольшая скорость",
            "both": "и мало, и быстро",
            0.01: "без потерь",
            0.03: "потеря ≤ 3 %",
        },
        "opponent": "без этого проекта: быстрейший экспорт без потерь",
        "nobody": "ни одна модель",
        "limit": "теряется не более, %",
        "pipeline": "× быстрее,<br>JPEG → рамки",
        "every": "Все цели. Цель достигнута, если потеря наверняка в её пределах (односторонняя граница "
        "95 %), а не по оценке; *без потерь* – граница 1 %.",
        "trust": "**Можно ли этому верить?** Таблицы ниже измерены на изображениях COCO val2017 ({images}), "
        "на которых ничего не калибровалось и не настраивалось. Каждая модель сравнивается с исходной на "
        "одних и тех же изображениях; интервалы получены по выборкам из них, для скорости – из пар, "
        "измеренных попеременно. Потеря в пределах шума, если её интервал доходит до 0: так у {same} моделей "
        "из {count}. Обычный интервал – ±{half} %; меньшие потери остаются незамеченными, а лучшая из многих "
        "моделей немного приукрашена: поэтому и нужно подтверждение. [Тесты](tests/test_accuracy.py) сверяют "
        "метрики с собственной валидацией ultralytics и с COCOeval.",
        "gallery": "Что видят исходная, наименьшая и самая быстрая модели (потеря ≤ 3 %), каждая названа над "
        "своим столбцом; подписано только то, что отличается от исходной",
        "more": "В [results/report.html](results/report.html) – все столбцы всех запусков, с сортировкой и "
        "фильтром: скачайте и откройте в браузере, сеть не нужна.",
        "small": "**Почему не сеть, маленькая с самого начала?** В {least[size_mb]:.2f} МБ у "
        "{least[link]} mAP50-95 {least[map50_95]:.3f}, у {best[link]} в {best[size_mb]:.2f} МБ – "
        "{best[map50_95]:.3f}, {more}.",
        "small and fast": "На {cpu} ({isa}) {nano[link]} быстрее исходной в {nano[speedup]:.2f}×, "
        "{fast[link]} – в {fast[speedup]:.2f}× при mAP50-95 {fast[map50_95]:.3f} против "
        "{nano[map50_95]:.3f}.",
        "all": "### Все эксперименты",
        "figures": {
            "pareto": "Две диаграммы: изменение mAP50-95 в зависимости от размера отправляемых файлов и от "
            "ускорения; модели, которых не превосходит ни одна другая, пронумерованы и перечислены",
            "forest": "Изменение mAP50-95 каждого эксперимента с интервалом 95 %, по домашним работам",
            "speed": "Ускорение каждого эксперимента с интервалом 95 %, по машинам",
        },
        "baseline": f"Исходная модель ({BASELINE})",
        "empty": "Запусков ещё нет: таблицу заполнит `make run HW=all`.",
        "machine": "На **{cpu}** ({isa}), потоков: {threads}; батч 1, 640×640; "
        "изображений COCO val2017: {images}.",
        "experiment": "Эксперимент",
        "ms": "CPU, мс: исходная → своя<br>вычисляется в",
        "times": "× быстрее",
        "milliseconds": "CPU, мс",
        "over": "× к {name}",
        "again": "подтверждено",
        "size": "МБ<br>(× меньше)",
        "zeros": "Нули, %",
        "reference": "эталон",
        "images": "изображений",
        "other": "На **{cpu}** ({isa}), потоков: {threads}: {found}. Все строки – в "
        "[отчёте](results/report.html).",
        "coco128": "### coco128: первая таблица и сейчас",
        "upper": "Верхняя строка – первая таблица, составленная вручную; нижняя, жирная – сейчас.",
        "changed": "Что изменилось: изображения вписываются в квадрат, а не в прямоугольник, это исходные "
        "JPEG, а не пережатые, размеры – байты на диске, а не в памяти, и CPU другой, поэтому "
        "миллисекунды двух строк несравнимы.",
    },
}


def answer(rows: pd.DataFrame, readme: str) -> str:
    """Markdown of a README's first screen: what one gains, and what one loses.

    Nothing before the first compressed model. Arguments as of ``block``.
    """
    say = CAPTIONS[readme]
    if rows.empty:
        return ""
    shown = headline(rows)
    if shown["map50_95_delta"].isna().all():
        return ""
    known = is_confirmed(shown)
    looked_at = shown.loc[known, CONFIRMED_IMAGES].min() if known.any() else _images(shown)
    how = say["confirmed" if known.any() else "unconfirmed"].format(images=f"{looked_at:.0f}")
    gain = say["gain"].format(**machine_of(machines(rows)[0]))
    return "\n" + "\n\n".join([gain, _goal_table(shown, say, ANSWERS, True), say["units"], how]) + "\n"


def block(rows: pd.DataFrame, original: pd.DataFrame, readme: str) -> str:
    """Markdown of one README's results.

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
    images = _images(shown)
    parts = [
        *_trust(shown, images, say),
        *(f"![{say['figures'][name]}]({path})" for name, path in FIGURES.items()),
        f"{say['gallery']}:",
        f"![{say['gallery'].partition(',')[0]}]({GALLERY})",
        say["more"],
        *_small_from_the_start(rows, shown, say),
        say["all"],
        say["machine"].format(images=images, **machine_of(published)),
        _main_table(shown, images, say),
    ]
    if shown["map50_95_delta"].notna().any():
        parts += [say["every"], _goal_table(shown, say, GOALS)]
    parts += [say["other"].format(**machine_of(group), found=_fast(group, say)) for group in others]
    parts += [say["coco128"], say["upper"], _coco128_table(shown, original, say), say["changed"]]
    return "\n" + "\n\n".join(parts) + "\n"


def _images(shown: pd.DataFrame) -> int:
    """How many photographs most rows were measured on."""
    return int(shown["images"].mode()[0])


def _trust(shown: pd.DataFrame, images: int, say: dict) -> list[str]:
    """Whether to believe the tables; nothing before the first compressed model."""
    width = (shown["map50_95_delta_hi"] - shown["map50_95_delta_lo"]).dropna()
    if width.empty:
        return []
    telling = width[width > SAME_OUTPUT]
    return [
        say["trust"].format(
            images=images,
            same=(shown["map50_95_delta_hi"] >= 0).sum(),
            count=len(width),
            half=number(100 * (telling if len(telling) else width).median() / 2, ".1f"),
        )
    ]


def _small_from_the_start(rows: pd.DataFrame, shown: pd.DataFrame, say: dict) -> list[str]:
    """What other networks, small by design, find in as few bytes, and on their machine as fast."""
    if rows["network"].eq("").all():
        return []
    rows, shown = (x.assign(link=[_link(r, say) for _, r in x.iterrows()]) for x in (rows, shown))
    others, compressed = rows[rows["network"] != ""], of_this_network(rows).dropna(subset=DELTA)
    said = []
    least = others.loc[others["size_mb"].idxmin()]
    as_small = shown.dropna(subset=DELTA)[lambda ours: ours["size_mb"] <= least["size_mb"]]
    if len(as_small):
        best = as_small.loc[as_small["map50_95"].idxmax()]
        more = number(100 * (best["map50_95"] / least["map50_95"] - 1), "+.0f") + " %"
        said.append(say["small"].format(least=least, best=best, more=more))
    nano = others.loc[others["speedup"].idxmax()]
    there = (compressed[MACHINE] == nano[MACHINE]).all(axis=1)
    as_right = compressed[there & (compressed["map50_95"] >= nano["map50_95"])]
    if len(as_right):
        fast = as_right.loc[as_right["speedup"].idxmax()]
        said.append(say["small and fast"].format(nano=nano, fast=fast, **nano[MACHINE]))
    return [" ".join(said)] if said else []


def _goal_table(
    shown: pd.DataFrame, say: dict, goals: list[tuple[str, float]], with_opponent: bool = False
) -> str:
    """What to take for which goal, and in what it executes; last, what to take without this project."""
    rows = evidence(shown)
    named = [
        (f"{say['goals'][gain]}, {say['goals'][loss]}", winner(rows, gain, loss)) for gain, loss in goals
    ]
    if with_opponent:
        named = [*_at_once(named), (say["opponent"], opponent(rows))]
    head = [say["goal"], say["take"], "Δ, %", say["limit"], say["size"], say["times"], say["pipeline"]]
    lines = []
    for goal, row in named:
        if row is None:
            lines.append([goal, say["nobody"], *["–"] * (len(head) - 2)])
            continue
        limit = number(100 * loss_limits(rows)[row.name], "z.1f")
        take = f"{_link(row, say)}{_file(row)}<br><sub>{row['execution_precision']}</sub>"
        times = [_interval(row[columns], ".2f") for columns in (SPEEDUP, PIPELINE)]
        lines.append([goal, take, _interval(100 * row[DELTA], "+z.1f"), limit, _size(row), *times])
    return _table(head, lines, words=2)


def _at_once(named: list[tuple[str, pd.Series | None]]) -> list[tuple[str, pd.Series | None]]:
    """The same list with the goals that one model meets in one line."""
    lines: dict[object, tuple[str, pd.Series | None]] = {}
    for goal, row in named:
        key = goal if row is None else row.name
        before = lines[key][0] + "<br>" if key in lines else ""
        lines[key] = before + goal, row
    return list(lines.values())


def _file(row: pd.Series) -> str:
    """Markdown that leads to the file of ``models/`` that a row was measured with; empty if there is none."""
    machine = ["experiment", "cpu", "isa"]
    for card in cards():
        if any([measured[key] for key in machine] == list(row[machine]) for measured in card.rows):
            return f"<br>[models/{card.file.name}](models/{card.name}.md)"
    return ""


def _main_table(shown: pd.DataFrame, images: int, say: dict) -> str:
    ratios, name = over_opponent(shown)
    head = [say["experiment"], "P", "R", "mAP50", "mAP50-95", "Δ, %", say["ms"], say["times"]]
    head += [say["over"].format(name=name or say["opponent"]), say["size"], say["zeros"]]
    lines = []
    for homework, rows in shown.groupby("homework"):
        lines.append([f"**[{homework}]({notebook_of(homework)})**", *[""] * (len(head) - 1)])
        lines += [_main_cells(row, ratios[index], images, say) for index, row in rows.iterrows()]
    return _table(head, lines)


def _main_cells(row: pd.Series, over: float, images: int, say: dict) -> list[str]:
    is_reference = row["experiment"] == BASELINE
    name = _link(row, say)
    if row["images"] != images:
        name += f"<br>({row['images']:.0f} {say['images']})"
    ms, times = _speed(row)
    delta = say["reference"] if is_reference else _interval(100 * row[DELTA], "+z.2f")
    if pd.notna(row[CONFIRMED_IMAGES]):
        again = row[[f"{CONFIRMED}{key}" for key in DELTA]]
        delta += f"<br>{say['again']}: {_interval(100 * again, '+z.2f')}"
    if pd.notna(row["pipeline_speedup"]):
        times += f"<br>JPEG → {say['pipeline'].rpartition(' ')[2]}: {_interval(row[PIPELINE], '.2f')}"
    return [
        name,
        *(number(row[key], ".3f") for key in ACCURACY[:3]),
        number(row["map50_95"], ".4f"),
        delta,
        ms if ms == "–" else f"{ms}<br><sub>{row['execution_precision']}</sub>",
        times,
        number(over, ".2f"),
        _size(row),
        number(100 * row["sparsity"], ".2f"),
    ]


def _fast(group: pd.DataFrame, say: dict) -> str:
    """What gains most speed on a machine, in words."""
    rows, found = evidence(group), []
    for gain, loss in ELSEWHERE:
        if (row := winner(rows, gain, loss)) is not None:
            goal = f"{say['goals'][gain]}, {say['goals'][loss]}"
            found.append(f"{goal}: {_link(row, say)}, {number(row['speedup'], '.2f')}×")
    return "; ".join(found) or say["nobody"]


def _coco128_table(shown: pd.DataFrame, original: pd.DataFrame, say: dict[str, str]) -> str:
    ms, size = say["milliseconds"], say["size"].partition("<br>")[0]
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


def _size(row: pd.Series) -> str:
    size = number(row["size_mb"], ".2f")
    return size if row["experiment"] == BASELINE else f"{size}<br>({number(row['size_ratio'], '.2f')}×)"


def _speed(row: pd.Series) -> tuple[str, str]:
    """Milliseconds beside those of the original timed with it, and their ratio."""
    ms = number(row["latency_ms"], ".1f")
    if row["experiment"] == BASELINE:
        return ms, "–" if ms == "–" else "1"
    if ms != "–":
        ms = f"{number(row['baseline_latency_ms'], '.1f')}\u00a0→\u00a0{ms}"
    return ms, _interval(row[SPEEDUP], ".2f")


def _link(row: pd.Series, say: dict[str, str]) -> str:
    """The experiment's name, leading to its notebook."""
    name = say["baseline"] if row["experiment"] == BASELINE else row["experiment"]
    return f"[{name}]({notebook_of(row['homework'])})"


def notebook_of(homework: str) -> str:
    """hw5_export → hw5_export/export.ipynb; a further notebook is named: hw5_export/fastest → ….ipynb."""
    folder, _, further = homework.partition("/")
    return f"{folder}/{further or folder.partition('_')[2]}.ipynb"


def _table(head: list[str], lines: list[list[str]], words: int = 1) -> str:
    """Markdown; all but the first ``words`` columns hold numbers."""
    rule = ["---"] * words + ["--:"] * (len(head) - words)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])


def number(value: float, form: str) -> str:
    return "–" if pd.isna(value) else format(value, form).replace("-", "−")


def _interval(values: pd.Series, form: str) -> str:
    if values.isna().any():
        return "–"
    value, low, high = (number(v, form) for v in values)
    return f"{value}<br><sub>[{low},\u00a0{high}]</sub>"  # unbroken in a narrow column
