"""results/aggregate.py: which runs count, what the tables say, and that nothing is half-written."""

import json
import re
import sys
from itertools import combinations
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "results"))

import aggregate
import show
import tables
from aggregate import MARKERS, check, regenerate
from captions import CAPTIONS
from modelcompression.cards import LICENCE, Card
from modelcompression.goals import winner
from modelcompression.tracking import history
from page import PAGE
from plots import _numbers, style
from rows import (
    BASELINE,
    COLUMNS,
    CSV,
    DELTA,
    FIGURES,
    FIRST_TABLE,
    NUMBERS,
    ResultsError,
    headline,
    read_rows,
    rows_of,
)

INTEL, AMD = "Intel Xeon 8481C", "AMD EPYC 7763"
METRICS = {
    **{"precision": 0.62, "recall": 0.51, "map50": 0.54, "map50_95": 0.3951},
    **{"map50_95_delta": -0.0123, "map50_95_delta_lo": -0.031, "map50_95_delta_hi": 0.0054},
    **{"coco128_precision": 0.66, "coco128_recall": 0.53, "coco128_map50": 0.61, "coco128_map50_95": 0.4567},
    **{"latency_ms": 25.613, "latency_p90_ms": 27.9, "baseline_latency_ms": 48.7},
    **{"speedup": 1.9, "speedup_lo": 1.87, "speedup_hi": 1.93},
    **{"size_mb": 6.2, "size_ratio": 2.0145, "sparsity": 0.0998, "bits_per_weight": 16.1, "images": 281},
}
RELATIVE = ("map50_95_delta", "speedup", "baseline_latency", "size_ratio")
FIRM = {
    **{"confirmed_images": 1000, "confirmed_map50_95_delta": -0.008, "confirmed_map50_95_delta_lo": -0.012},
    **{"confirmed_map50_95_delta_hi": -0.004, "confirmed_loss_bound": 0.0115},
    **{"confirmed_speedup": 1.8, "confirmed_speedup_lo": 1.7, "confirmed_speedup_hi": 1.9},
    **{"confirmed_pipeline_speedup": 1.5, "confirmed_pipeline_speedup_lo": 1.4},
    **{"confirmed_pipeline_speedup_hi": 1.6, "confirmed_git_commit": "4a33fa4"},
    **{"confirmed_latency_ms": 10.0, "confirmed_baseline_latency_ms": 18.0},
    **{"confirmed_pipeline_ms": 20.0, "confirmed_baseline_pipeline_ms": 30.0},
}  # what confirm adds
ANSWER, RESULTS = ([marker.format(name) for marker in MARKERS] for name in ("answer", "results"))
EMPTY = "# Title\n\n{}\nold\n{}\n\nText.\n\n{}\nold\n{}\n\nThe end.\n".format(*ANSWER, *RESULTS)


def run(experiment: str = "ONNX", minute: int = 0, **changes: object) -> dict:
    """One finished run; ``changes`` name metrics, tags or columns."""
    tags = {"homework": "hw5_export", "dataset": "coco-val", "smoke": "false", "cpu": INTEL, "isa": "AMX"}
    tags |= {"threads": "2", "runtime": "ONNX Runtime", "execution_precision": "f32", "git_commit": "4a33fa4"}
    tags |= {"versions": "torch 2.9, mlflow 3.17"}
    end = pd.Timestamp(2026, 5, 1, 12, tz="UTC") + pd.Timedelta(minutes=minute)
    metrics = METRICS
    if experiment == BASELINE:
        metrics = {key: value for key, value in METRICS.items() if not key.startswith(RELATIVE)}
    if "latency_ms" in changes and "speedup" not in changes:
        changes["baseline_latency_ms"] = METRICS["speedup"] * changes["latency_ms"]
    elif changes.get("speedup"):
        changes["baseline_latency_ms"] = changes["speedup"] * METRICS["latency_ms"]
    metrics = metrics | {key: changes[key] for key in changes if key in COLUMNS and key in NUMBERS}
    tags |= {key: changes[key] for key in changes if key in ("campaign", "confirmed_git_commit")}
    row = {"run_id": f"{experiment}-{minute}", "experiment": experiment, "end_time": end}
    row |= {f"metrics.{key}": changes.get(key, value) for key, value in metrics.items()}
    return row | {f"tags.{key}": changes.get(key, value) for key, value in tags.items()}


def runs(*rows: dict) -> pd.DataFrame:
    return pd.DataFrame(rows)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with empty tables."""
    (tmp_path / "results").mkdir()
    (tmp_path / FIRST_TABLE).write_bytes((aggregate.ROOT / FIRST_TABLE).read_bytes())
    for name in CAPTIONS:
        (tmp_path / name).write_text(EMPTY, encoding="utf8")
    return tmp_path


def cells(root: Path, experiment: str, readme: str = "README.md") -> list[list[str]]:
    """The cells after the name in every table row of one experiment, in order of the tables."""
    lines = (root / readme).read_text(encoding="utf8").splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")
    ]
    return [row[1:] for row in rows if re.sub(r"\[(.*?)\]\(.*", r"\1", row[0]) == experiment]


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_latest_run_of_an_experiment_wins(root) -> None:
    regenerate(root, runs(run(minute=9, map50=0.555), run(minute=3, map50=0.444)))
    assert read_rows(root)["map50"].tolist() == [0.555]
    regenerate(root, runs(run(minute=5, map50=0.333)))
    assert read_rows(root)["map50"].tolist() == [0.555], "an older run displaced the committed one"
    regenerate(root, runs(run(minute=10, map50=0.666)))
    assert read_rows(root)["map50"].tolist() == [0.666]


@pytest.mark.parametrize(
    "wrong",
    [
        {"smoke": "true"},
        {"dataset": "demo"},
        {"images": 280},
        {"images": None},
        {"map50_95": np.nan},
        {"cpu": None},
    ],
)
def test_runs_that_do_not_count_never_enter(root, wrong) -> None:
    rows = regenerate(root, runs(run("ONNX"), run("Odd", **wrong)))
    assert rows["experiment"].tolist() == ["ONNX"]
    assert "Odd" not in (root / "README.md").read_text(encoding="utf8")


def test_failed_runs_of_a_real_store_never_enter(root, tmp_path, monkeypatch) -> None:
    from mlflow import MlflowClient

    from modelcompression.tracking import store, targets, tracker

    monkeypatch.setenv("MC_STORE", str(tmp_path / "store"))
    common = {key.removeprefix("tags."): value for key, value in run().items() if key.startswith("tags.")}
    tracker = tracker.Tracker("hw5_export", common)

    def log(name: str, **tags: str) -> str:
        return tracker.log(store.RunRecord(name, METRICS, {}, common | {"experiment": name} | tags, ()))

    log("OpenVINO")
    log("Smoke", smoke="true")
    failed = log("Failed")
    tracker.finish()
    MlflowClient(targets.resolve_target().uri).set_terminated(failed, "FAILED")

    row = regenerate(root, history.finished_runs()).squeeze()
    assert row["experiment"] == "OpenVINO"
    assert row[list(METRICS)].tolist() == pytest.approx(list(METRICS.values()), rel=1e-3)
    assert abs(pd.Timestamp.now("UTC") - pd.Timestamp(row["finished"])) < pd.Timedelta(minutes=10)


def test_committed_rows_survive_an_empty_store(root) -> None:
    regenerate(root, runs(run("ONNX"), run("OpenVINO")))
    before = contents(root)
    regenerate(root, pd.DataFrame())
    assert contents(root) == before, "files, the figure included, depend on results.csv alone"
    regenerate(root, runs(run("Pruned", homework="hw3_pruning")))
    assert read_rows(root)["experiment"].tolist() == ["ONNX", "OpenVINO", "Pruned"]


def test_without_any_run_the_tables_say_so(root) -> None:
    regenerate(root, pd.DataFrame())
    check(root)
    assert "No runs yet" in (root / "README.md").read_text(encoding="utf8")
    assert not (root / "results/figures").exists()


def test_a_speed_column_belongs_to_one_cpu(root) -> None:
    intel = [
        run("Original model", speedup=None),
        run("ONNX", latency_ms=11.1),
        run("OpenVINO", latency_ms=12.2),
    ]
    amd = {"cpu": AMD, "isa": "AVX2", "minute": 50}
    other = [run("ONNX", latency_ms=77.7, **amd), run("Only on AMD", latency_ms=88.8, map50=0.321, **amd)]
    regenerate(root, runs(*intel, *other))
    main, _ = cells(root, "ONNX")
    assert main[5].startswith("21.1\u00a0→\u00a011.1<")
    (main,) = cells(root, "Only on AMD")
    assert main[2] == "0.321" and main[5:8] == ["–"] * 3, "another CPU's speed in the main table"
    text = (root / "README.md").read_text(encoding="utf8")
    assert text.index(INTEL) < text.index("→\u00a011.1") < text.index(f"**{AMD}** (AVX2)")
    assert "77.7" not in text and "88.8" not in text


def test_equally_many_experiments_publish_the_latest_machine(root) -> None:
    regenerate(root, runs(run("ONNX", minute=1), run("ONNX", minute=2, threads="4", latency_ms=9.87)))
    main, _ = cells(root, "ONNX")
    assert "→\u00a09.9" in main[5]


def test_one_name_with_two_instruction_sets_is_two_machines(root) -> None:
    slow = run("ONNX", minute=1, isa="AVX2", latency_ms=64.2)
    regenerate(root, runs(run("Original model"), slow, run("ONNX", minute=2, isa="AVX-512 VNNI")))
    assert sorted(read_rows(root).query("experiment == 'ONNX'")["isa"]) == ["AVX-512 VNNI", "AVX2"]


def test_cells_show_what_was_measured(root) -> None:
    regenerate(root, runs(run("Original model"), run("ONNX")))
    main, then_and_now = cells(root, "ONNX")
    assert main == [
        *("0.620", "0.510", "0.540", "0.3951", "−1.23<br><sub>[−3.10,\u00a0+0.54]</sub>"),
        *("48.7\u00a0→\u00a025.6<br><sub>f32</sub>", "1.90<br><sub>[1.87,\u00a01.93]</sub>", "–"),
        *("6.20<br>(2.01×)", "9.98"),
    ]
    assert then_and_now[0] == "0.651<br>**0.660**" and then_and_now[3] == "0.452<br>**0.457**"
    assert then_and_now[4:] == ["271.8<br>**25.6**", "12.23<br>**6.20**", "–<br>**9.98**"]
    (not_measured,) = cells(root, "Global pruning 10 %")
    assert not_measured[0] == "0.632<br>**–**" and not_measured[-1] == "9.98<br>**–**"
    assert cells(root, "Original model")[0][4:8] == ["reference", "25.6<br><sub>f32</sub>", "1", "–"]
    assert "[hw5_export](hw5_export/export.ipynb)" in (root / "README.md").read_text(encoding="utf8")


def test_rows_stand_in_the_first_tables_order_then_by_homework(root) -> None:
    names = [
        ("Z", "hw2_quantization"),
        ("B", "hw3_pruning"),
        ("A", "hw3_pruning"),
        ("OpenVINO", "hw5_export"),
    ]
    rows = [run(name, homework=homework) for name, homework in [*names, ("Original model", "hw1_baseline")]]
    found = regenerate(root, runs(*rows))["experiment"].tolist()
    assert found == ["Original model", "OpenVINO", "Z", "A", "B"]


def test_a_row_on_more_images_says_so(root) -> None:
    regenerate(root, runs(run("ONNX"), run("OpenVINO"), run("Long", images=5000)))
    text = (root / "README.md").read_text(encoding="utf8")
    assert text.count("(5000 images)") == 1 and "281 images" in text


def test_both_languages_hold_the_same_numbers(root) -> None:
    regenerate(root, runs(run("Original model"), run("ONNX"), run("ONNX", cpu=AMD, latency_ms=77.7)))
    tables = []
    for name in CAPTIONS:
        lines = (root / name).read_text(encoding="utf8").splitlines()
        tables.append([re.findall(r"[−+]?\d[\d.]*|–", line) for line in lines if line.startswith("|")])
    assert len(tables[0]) > 10 and tables[0] == tables[1]
    assert cells(root, "Исходная модель (Original model)", "README.ru.md")


def test_what_surrounds_the_tables_stays(root) -> None:
    regenerate(root, runs(run()))
    text = (root / "README.md").read_text(encoding="utf8")
    assert text.startswith(f"# Title\n\n{ANSWER[0]}\n") and text.endswith(f"\n{RESULTS[1]}\n\nThe end.\n")
    assert "\nold\n" not in text


def test_check_notices_one_digit_and_a_missing_figure(root) -> None:
    regenerate(root, runs(run("Original model"), run("ONNX")))
    check(root)
    for name in ("README.md", "README.ru.md", CSV):
        text = (root / name).read_text(encoding="utf8")
        (root / name).write_text(text.replace("0.3951", "0.3952", 1), encoding="utf8")
        with pytest.raises(ResultsError, match="make table"):
            check(root)
        (root / name).write_text(text, encoding="utf8")
    check(root)
    path = root / FIGURES["forest"]
    text = path.read_text(encoding="utf8")
    path.write_text(text.replace("−1.2", "−1.3", 1), encoding="utf8")
    with pytest.raises(ResultsError, match=r"forest\.svg differs"):
        check(root)
    path.unlink()
    with pytest.raises(ResultsError, match=r"forest\.svg is missing"):
        check(root)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("no markers", "must contain '<!-- answer:start -->' once, not 0 times"),
        ("".join(ANSWER) + RESULTS[0], "must contain '<!-- results:end -->' once, not 0 times"),
        (EMPTY * 2, "once, not 2 times"),
        ("".join(reversed(ANSWER)), "swap them"),
        (None, "README.ru.md is missing"),
    ],
)
def test_a_readme_with_wrong_markers_is_one_clear_error_and_nothing_is_written(root, broken, says) -> None:
    path = root / "README.ru.md"
    path.unlink() if broken is None else path.write_text(broken, encoding="utf8")
    before = contents(root)
    with pytest.raises(ResultsError, match=re.escape(says)) as error:
        regenerate(root, runs(run()))
    assert "\n" not in str(error.value)
    assert contents(root) == before
    with pytest.raises(ResultsError, match=re.escape(says)):
        check(root)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("experiment,", "name,"),
        ("0.3951", "0.3951?"),
        ("\nONNX", "\n<<<<<<< HEAD\nONNX"),
        ("\nONNX", "\nONNX,more"),
        ("coco-val", '"coco-val'),
    ],
)
def test_a_damaged_csv_is_one_clear_error_and_is_kept(root, old, new) -> None:
    regenerate(root, runs(run("ONNX")))
    text = (root / CSV).read_text(encoding="utf8")
    (root / CSV).write_text(text.replace(old, new, 1), encoding="utf8")
    before = contents(root)
    with pytest.raises(ResultsError, match=r"results\.csv is damaged") as error:
        regenerate(root, runs(run("OpenVINO")))
    assert "\n" not in str(error.value)
    assert contents(root) == before


def test_rows_of_both_sides_of_a_git_merge_do_no_harm(root) -> None:
    regenerate(root, runs(run("ONNX", minute=1, map50=0.511)))
    older = (root / CSV).read_text(encoding="utf8").splitlines()[1]
    regenerate(root, runs(run("ONNX", minute=2, map50=0.522)))
    with (root / CSV).open("a", encoding="utf8") as file:
        file.write(older + "\n")
    check(root)
    regenerate(root, pd.DataFrame())
    assert read_rows(root)["map50"].tolist() == [0.522]


@pytest.mark.parametrize("count", [1, 3, 45])
def test_figures_name_every_experiment_and_are_reproducible(root, count) -> None:
    names = [f"Experiment {index}" for index in range(count)]
    rows = [run(name, size_mb=12.1 / (1 + index)) for index, name in enumerate(names)]
    regenerate(root, runs(run(BASELINE, runtime="PyTorch"), *rows))
    paths = [root / path for path in FIGURES.values()]
    first = [path.read_bytes() for path in paths]
    assert all(f">{name}<".encode() in svg for name in names for svg in first[1:])
    for path in paths:
        path.unlink()
    regenerate(root, pd.DataFrame())
    assert [path.read_bytes() for path in paths] == first


def test_the_front_is_what_nothing_beats(root) -> None:
    regenerate(
        root,
        runs(
            run("Small", size_mb=1.0, speedup=1.0),
            run("Fast", size_mb=4.0, speedup=3.0),
            run("Beaten", size_mb=4.1, speedup=2.9),
            run("As fast within noise, larger", size_mb=1.1, speedup=1.01),
        ),
    )
    svg = (root / FIGURES["pareto"]).read_text(encoding="utf8")
    assert re.findall(r">(Small|Fast|Beaten|As fast)[^<]*<", svg) == ["Small", "Fast"]


def test_numbers_of_the_front_do_not_touch_though_its_points_do() -> None:
    axes = Figure(figsize=(4, 3), dpi=72).subplots()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    front = pd.DataFrame({"x": [5, 5, 5.05, 5.1], "y": [5, 5.3, 5, 1]}, index=[9, 10, 11, 12])
    _numbers(axes, front, front.to_numpy())
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 4 and not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert boxes[3].y0 > axes.get_window_extent().y0 + 10, "below are the values of outliers"


def test_an_outlier_becomes_an_arrow_with_its_value(root) -> None:
    outlier = dict(zip(DELTA, (-0.36, -0.39, -0.33), strict=True))
    regenerate(root, runs(run("ONNX"), run("Pruned", homework="hw3_pruning", **outlier)))
    pareto, forest = ((root / FIGURES[name]).read_text(encoding="utf8") for name in ("pareto", "forest"))
    assert ">−36 %<" in pareto and "−36.0 [−39.0, −33.0]" in forest
    assert ">−20<" not in pareto + forest, "an axis was stretched for it"


def test_odd_names_do_no_harm_to_figures_and_page(root) -> None:
    names = ["A <b> & a $x^2$", "A name that goes on and on " * 4]
    odd = [run(name, homework="hw6_example") for name in names]
    regenerate(root, runs(run(BASELINE, runtime="PyTorch"), *odd, run("Nameless", homework="other")))
    forest, html = ((root / path).read_text(encoding="utf8") for path in (FIGURES["forest"], PAGE))
    assert ">A &lt;b&gt; &amp; a $x^2$<" in forest and ">A name that goes on" in forest
    assert "A &lt;b&gt; &amp; a $x^2$" in html


def test_homeworks_differ_in_colour_and_in_marker() -> None:
    styles = [style(f"hw{number}_any") for number in range(1, 8)]
    assert all(len(set(kind)) == 7 for kind in zip(*styles, strict=True))
    assert style("hw8_any") == style("hw1_any"), "an eighth homework has a style, too"


def test_the_winner_gains_most_and_is_sure_to_lose_no_more_than_allowed(root) -> None:
    small = {"size_ratio": 6.0, "speedup": 1.0} | dict(zip(DELTA, (-0.02, -0.03, -0.01), strict=True))
    quick = {"size_ratio": 2.0, "speedup": 4.0} | dict(zip(DELTA, (0.001, -0.008, 0.01), strict=True))
    lucky = {"size_ratio": 9.0, "speedup": 9.0} | dict(zip(DELTA, (-0.005, -0.04, 0.03), strict=True))
    regenerate(root, runs(run(BASELINE), run("Small", **small), run("Quick", **quick), run("Lucky", **lucky)))
    shown = headline(read_rows(root))
    names = {
        wish: winner(shown, *wish)["experiment"]
        for wish in [("size_ratio", 0.03), ("size_ratio", 0.01), ("speedup", 0.03), ("both", 0.03)]
    }
    assert list(names.values()) == ["Small", "Quick", "Quick", "Quick"], "the bound counts, not the estimate"
    assert winner(shown, "speedup", 0.001) is None
    text = (root / "README.md").read_text(encoding="utf8")
    assert "| smallest file, loss ≤ 3 % | [Small](" in text and "2 of 3 models" in text
    assert "None of this is confirmed yet" in text


def test_confirmed_numbers_alone_make_the_answers(root) -> None:
    better = dict(zip(DELTA, (0.0, -0.001, 0.001), strict=True))
    tempting = run("Tempting", size_ratio=9.0, speedup=9.0, **better)
    firm = run("Firm", size_ratio=3.0, speedup=1.95, pipeline_speedup=1.55, **better, **FIRM)
    regenerate(root, runs(run(BASELINE), tempting, firm))
    text = (root / "README.md").read_text(encoding="utf8")
    answers = text[: text.index("Every number of this table is confirmed: on 1000 images")].splitlines()
    goals = ("smallest file", "fastest", "small and fast")
    (line,) = (line for line in answers if line.startswith("| smallest"))
    together = "<br>".join(f"{goal}, loss ≤ 3 %" for goal in goals)
    assert line.startswith(f"| {together} |"), "one model, one line"
    assert "[Firm](" in line and "| 1.1 |" in line.replace("1.15", "1.1")
    assert "−0.8<br><sub>[−1.2,\u00a0−0.4]" in line and "1.80<br><sub>[1.70,\u00a01.90]" in line
    assert "1.50<br><sub>[1.40,\u00a01.60]" in line, "end to end beside forward"
    assert not any("Tempting" in line for line in answers)
    goals = text[text.index("All goals.") :]
    assert "| fastest, nothing lost | no model meets this |" in goals, "the bound is 1.15 %"
    assert "confirmed: −0.80<br>" in cells(root, "Firm")[0][4]


def test_the_answer_leads_to_the_file_that_was_measured(root, monkeypatch) -> None:
    same = dict(zip(DELTA, (0.0, 0.0, 0.0), strict=True))
    here = {"experiment": "Small", "cpu": INTEL, "isa": "AMX"}
    card = Card("tiny", "what it is", "0" * 64, 1, LICENCE, {}, [here])
    monkeypatch.setattr(tables, "cards", lambda: [card])
    file = "<br>[models/tiny.mcpk](models/tiny.md)<br>"
    for isa, times in (("AMX", 1), ("AVX2", 0)):
        rows = rows_of(runs(run(BASELINE, isa=isa), run("Small", isa=isa, size_ratio=6.0, **same)))
        assert tables.answer(rows, "README.md").count(file) == times


def test_the_answer_names_what_a_user_gets_in_one_line(root) -> None:
    nothing = dict(zip(DELTA, (0.001, -0.005, 0.01), strict=True))
    lossy = dict(zip(DELTA, (-0.09, -0.1, -0.08), strict=True))
    rows = [
        run(BASELINE),
        run("OpenVINO", speedup=1.6, **nothing),
        run("Ultralytics export, int8 (OpenVINO)", speedup=3.2, **nothing),
        run("Ultralytics export, half (OpenVINO)", speedup=9.0, **lossy),
        run("Ours", speedup=4.0, **nothing),
    ]
    regenerate(root, runs(*rows))
    text = (root / "README.md").read_text(encoding="utf8")
    (line,) = (line for line in text.splitlines() if line.startswith("| without this project"))
    assert "[Ultralytics export, int8 (OpenVINO)](" in line
    assert "× over Ultralytics export, int8 (OpenVINO)" in text
    assert cells(root, "Ours")[0][7] == "1.25" and cells(root, "OpenVINO")[0][7] == "0.50"
    assert cells(root, "Original model")[0][7] == "–"


def test_few_images_confirm_nothing_and_a_copy_without_confirmation_displaces_none(root) -> None:
    regenerate(root, runs(run("Few", **{**FIRM, "confirmed_images": 999}), run("Enough", **FIRM)))
    rows = read_rows(root).set_index("experiment")
    assert rows["confirmed_loss_bound"].isna().to_dict() == {"Few": True, "Enough": False}
    regenerate(root, runs(run("Enough")))
    assert read_rows(root).set_index("experiment")["confirmed_images"]["Enough"] == 1000


def test_a_network_small_from_the_start_is_answered_and_enters_no_table(root) -> None:
    nano = {"params.network": "NanoDet-Plus-m", "tags.homework": "hw5_export/smaller_network"}
    rows = (
        run(BASELINE),
        run("Packed, 1.0 MB", 1, size_mb=1.0, map50_95=0.39, speedup=1.0),
        run("Packed, 1.3 MB", 2, size_mb=1.3, map50_95=0.395, speedup=1.0),
        run("INT8, 416 px", 3, size_mb=3.6, map50_95=0.33, speedup=6.0),
        run("NanoDet, int8", 4, size_mb=1.2, map50_95=0.3, speedup=4.0) | nano,
        run("NanoDet, float16", 5, size_mb=2.3, map50_95=0.31, speedup=5.0) | nano,
    )
    regenerate(root, runs(*rows))
    for name, title in zip(CAPTIONS, ("### All experiments", "### Все эксперименты"), strict=True):
        _, after = (root / name).read_text(encoding="utf8").split(title)
        (said,) = (line for line in after.splitlines() if "NanoDet" in line)
        assert re.findall(r"\d\.\d{2,3}", said) == [
            "1.20",
            "0.300",
            "1.00",
            "0.390",
            "5.00",
            "6.00",
            "0.330",
            "0.310",
        ]
        assert "+30 %" in said and "[Packed, 1.0 MB](" in said and said.startswith("**")
    assert "NanoDet" not in "".join((root / path).read_text() for path in FIGURES.values())
    assert "NanoDet, int8" in (root / PAGE).read_text(encoding="utf8"), "the report has every row"
    with pytest.raises(ResultsError, match=r"smaller_network\.ipynb prints no row of NanoDet, float16"):
        check(root)


def test_a_notebook_shows_another_network_on_the_latest_machine_only(root) -> None:
    nano = {"params.network": "NanoDet-Plus-m", "tags.homework": "hw5_export/smaller_network"}
    here = run("NanoDet, int8", 2, size_mb=1.2, map50_95=0.3, speedup=4.0) | nano
    there = run("NanoDet, int8", 1, size_mb=1.2, map50_95=0.3, speedup=5.0, cpu=AMD, isa="AVX2") | nano
    regenerate(root, runs(run(BASELINE), here, there))
    notebook = root / "hw5_export" / "smaller_network.ipynb"
    notebook.parent.mkdir(exist_ok=True)
    after, before = here["metrics.latency_ms"], here["metrics.baseline_latency_ms"]
    line = f"NanoDet, int8: mAP50-95 0.3000, {before:.1f} → {after:.1f} ms (4.00×), 1.20 MB\n"
    output = {"output_type": "stream", "name": "stdout", "text": [line]}
    notebook.write_text(json.dumps({"cells": [{"cell_type": "code", "outputs": [output], "source": []}]}))
    check(root)
    notebook.write_text(notebook.read_text().replace("0.3000", "0.3100"))
    with pytest.raises(ResultsError, match="publish it again"):
        check(root)


def test_every_cpu_class_has_its_own_fastest(root) -> None:
    same = dict(zip(DELTA, (0.0, 0.0, 0.0), strict=True))
    here = [run(BASELINE), run("BF16", speedup=3.4, **same), run("INT8", speedup=3.2, **same)]
    there = [
        run("BF16", speedup=1.5, cpu=AMD, isa="AVX2", **same),
        run("INT8", speedup=2.5, cpu=AMD, isa="AVX2", **same),
    ]
    regenerate(root, runs(*here, *there))
    text = (root / "README.md").read_text(encoding="utf8")
    first, _, second = text.partition(f"On **{AMD}** (AVX2)")
    assert "| fastest, loss ≤ 3 % | [BF16](" in first
    assert "fastest, loss ≤ 3 %: [INT8](hw5_export/export.ipynb), 2.50×" in second
    assert "smallest file" not in second.partition("report.html")[0], "bytes do not depend on the CPU"


def published(root: Path, *campaigns: str) -> None:
    """A notebook of each of these campaigns, executed to their ends."""
    for number, campaign in enumerate(campaigns, 1):
        notebook = nbformat.v4.new_notebook(metadata={"modelcompression": {"campaign": campaign}})
        (root / f"hw{number}_any").mkdir(exist_ok=True)
        nbformat.write(notebook, root / f"hw{number}_any" / "any.ipynb")


def test_a_campaign_that_was_cut_off_replaces_nothing(root) -> None:
    before = [run(name, minute=1, campaign="b, CPU, AMX") for name in (BASELINE, "ONNX")]
    published(root, "b, CPU, AMX")
    regenerate(root, runs(*before))
    cut_off = run(BASELINE, minute=5, campaign="c, CPU, AMX", map50_95=0.2)
    rows = regenerate(root, runs(*before, cut_off))
    assert list(rows["campaign"]) == ["b, CPU, AMX"] * 2 and rows["map50_95"].min() > 0.3
    published(root, "c, CPU, AMX")
    assert list(regenerate(root, runs(*before, cut_off))["map50_95"]) == [0.2]


def test_a_campaign_measures_its_machine_anew(root) -> None:
    published(root, "c, CPU, AMX")
    old, elsewhere = run("Gone", minute=1), run("Elsewhere", minute=1, cpu=AMD, isa="AVX2")
    since = run("By its name alone", minute=9)
    regenerate(root, runs(old, elsewhere, run(BASELINE, minute=5, campaign="c, CPU, AMX"), since))
    assert set(read_rows(root)["experiment"]) == {BASELINE, "Elsewhere", "By its name alone"}


def test_the_latest_campaign_makes_the_main_table(root) -> None:
    """The committed notebooks are of it, however many more rows an older one on another machine has."""
    old = [run(name, minute=1, campaign="b, CPU, AMX") for name in (BASELINE, "ONNX", "BF16")]
    since = run("By its name alone", minute=9)
    there = {"campaign": "c, CPU, AVX2", "cpu": AMD, "isa": "AVX2", "minute": 5}
    new = [run(BASELINE, **there), run("ONNX", latency_ms=9.87, **there)]
    published(root, "b, CPU, AMX", "c, CPU, AVX2")
    shown = headline(regenerate(root, runs(*old, since, *new)))
    assert list(shown["experiment"]) == [BASELINE, "ONNX"]
    assert set(shown["isa"]) == {"AVX2"}


def test_what_a_run_prints_is_its_own(root, monkeypatch, capsys) -> None:
    """Not what a campaign had measured under the same names."""
    published(root, "c, CPU, AMX")
    regenerate(root, runs(run("ONNX", campaign="c, CPU, AMX")))
    monkeypatch.setattr(show, "ROOT", root)
    monkeypatch.setattr(history, "finished_runs", lambda: runs(run("ONNX", minute=9, map50_95=0.1234)))
    monkeypatch.setattr(sys, "argv", ["show.py", "hw5_export"])
    show.main()
    assert "0.1234" in capsys.readouterr().out


def test_the_printed_report_holds_the_homework_asked_for(root) -> None:
    rows = regenerate(root, runs(run("ONNX"), run("Pruned", homework="hw3_pruning")))
    assert "Pruned" in aggregate.report(rows, ["hw3_pruning"])
    assert "ONNX" not in aggregate.report(rows, ["hw3_pruning"])
    assert "no row of hw2_quantization" in aggregate.report(rows, ["hw2_quantization"])
