"""models/: files to take home, each with a card that is written from runs, never by hand.

    python results/models.py                                            # every card anew, from results.csv
    python results/models.py small --run "Packed checkpoint, 1.0 MB"    # the file of a run
    python results/models.py small --file healed.mcpk --record healed.json

A row of results.csv belongs to a card if its run logged the sha256 of that very file. A file that was not
made by a run, but by hours of training, brings a record of how it was made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from dataclasses import asdict
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import pandas as pd

from modelcompression import ROOT
from modelcompression.cards import LICENCE, Card
from modelcompression.files import replace
from modelcompression.packed.checkpoint import inspect
from modelcompression.packed.container import opened
from modelcompression.terminal import script
from rows import CSV, ResultsError, headline, read_rows

FOLDER = "models"
HISTORY = "history"  # of a healing, in the record
RECORD = ("commit", "device", "photographs", "steps", "minutes")  # what a training says of itself
KEPT = [
    *("experiment", "homework", "run_id", "git_commit", "finished", "cpu", "isa", "threads"),
    *("runtime", "execution_precision", "images", "map50_95", "size_mb", "size_ratio", "latency_ms"),
    *("map50_95_delta", "map50_95_delta_lo", "map50_95_delta_hi", "speedup", "speedup_lo", "speedup_hi"),
]
GRAPH = ", and an INT8 graph for OpenVINO"  # of what a file holds
LATER = ("confirmed_", "pipeline_")  # columns that a row may have or not


def card_files(root: Path, rows: pd.DataFrame, runs: pd.DataFrame | None = None) -> dict[str, str]:
    """File name → text of all cards, and of the folder's README, as results.csv has them.

    Args:
        rows: results.csv.
        runs: finished runs, as ``history.finished_runs`` returns them: rows of new runs of the same file
            are found by its sha256. Without them the rows of the runs that the card names are looked up.

    Raises:
        ResultsError: a file has no card, a card no file, or one is damaged.
    """
    cards = [_refreshed(root, path, rows, runs) for path in sorted((root / FOLDER).glob("*.json"))]
    alone = {path.stem for path in (root / FOLDER).glob("*.mcpk")} - {card.name for card in cards}
    if alone:
        raise ResultsError(f"models/{min(alone)}.mcpk has no card: make models NAME={min(alone)} FILE=…")
    return _texts(cards)


def check_models(root: Path, rows: pd.DataFrame) -> None:
    """Do cards, files and results.csv agree?

    Raises:
        ResultsError: they do not; the message says which and what to do.
    """
    for name, text in card_files(root, rows).items():
        path = root / name
        if not path.exists() or path.read_text(encoding="utf8") != text:
            raise ResultsError(f"{name} differs from what {CSV} and the file say: run `make models`")


def take(root: Path, name: str, file: Path, made: dict[str, Any], rows: pd.DataFrame) -> Card:
    """Put a packed checkpoint into models/ under a name, with a card.

    Args:
        made: how it was made, see `RECORD`; or the run that made it.
        rows: the rows that were measured with this file.

    Raises:
        PackedCheckpointError: the file is none.
        ResultsError: the disk is full; nothing was changed.
    """
    if not name.isidentifier() or not name.isascii():
        raise ResultsError(f"a model's name has letters, digits and _, not '{name}'")
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    card = Card(name, _what(file), digest, len(data), LICENCE, made, _rows_as_data(rows))
    others = [_read(path) for path in (root / FOLDER).glob("*.json") if path.stem != name]
    texts = _texts([*others, card])
    _write(root, {f"{FOLDER}/{name}.mcpk": data} | {file: text.encode() for file, text in texts.items()})
    return card


def confirm_cards(root: Path, found: dict[str, dict[str, Any]]) -> None:
    """Write confirmed numbers onto the cards of the models that they are of.

    Raises:
        ResultsError: there is no model of a name, or it has another sha256 by now.
    """
    cards = {card.name: card for card in map(_read, (root / FOLDER).glob("*.json"))}
    for name, numbers in found.items():
        if name not in cards:
            raise ResultsError(f"models/ holds no {name}.mcpk: make models NAME={name} FILE=… first")
        if numbers.get("sha256", cards[name].sha256) != cards[name].sha256:
            raise ResultsError(f"{name}.mcpk is another file than the confirmed one: confirm it again")
        cards[name] = replaced(cards[name], confirmed=numbers)
    _write(root, {file: text.encode() for file, text in _texts(list(cards.values())).items()})


def of_run(experiment: str, runs: pd.DataFrame, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The packed file of the latest run of an experiment, and the run as its origin.

    Args:
        folder: where the file may be fetched.

    Raises:
        ResultsError: the store has no such run, or the run no packed file.
    """
    from modelcompression.tracking.history import artifacts

    found = runs[runs["experiment"] == experiment]
    if found.empty:
        raise ResultsError(f"the tracking store has no run of '{experiment}': make run makes one")
    run = found.iloc[-1]
    packed = [path for path in artifacts(run["run_id"], folder) if path.suffix == ".mcpk"]
    if len(packed) != 1:
        raise ResultsError(f"the run of '{experiment}' holds {len(packed)} packed checkpoints, not one")
    origin = {"run": run["run_id"], "homework": run["tags.homework"], "commit": run["tags.git_commit"]}
    return packed[0], origin


def record_of(path: Path) -> dict[str, Any]:
    """How a file was made, as the training wrote it down.

    Raises:
        ResultsError: the record is missing, damaged or incomplete.
    """
    try:
        record = json.loads(path.read_text(encoding="utf8"))
        missing = [key for key in RECORD if key not in record]
    except (OSError, ValueError, TypeError) as error:
        raise ResultsError(f"{path} is no record of a training: {str(error)[:100]}") from None
    if missing:
        raise ResultsError(f"{path} does not say {', '.join(missing)}")
    return record


def confirmations(path: Path) -> dict[str, dict[str, Any]]:
    """What ``modelcompression confirm models/NAME.mcpk … --json FILE`` wrote, by the models' names.

    Raises:
        ResultsError: the file is missing or damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf8"))
        return {Path(one["model"]).stem: {k: v for k, v in one.items() if k != "model"} for one in found}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ResultsError(f"{path} was not written by confirm --json: {str(error)[:100]}") from None


def measured(rows: pd.DataFrame, runs: pd.DataFrame, digest: str, named: list[str]) -> pd.DataFrame:
    """The rows whose runs logged this sha256, and those of the named runs."""
    logged = runs.get("params.sha256", pd.Series("", runs.index)).fillna("")
    same = set(runs.loc[logged.str.contains(digest, regex=False), "run_id"]) if len(runs) else set()
    return rows[rows["run_id"].isin({*same, *named})]


def _refreshed(root: Path, path: Path, rows: pd.DataFrame, runs: pd.DataFrame | None) -> Card:
    card = _read(path)
    file = path.with_suffix(".mcpk")
    if not file.exists():
        raise ResultsError(f"{path.name} has no file {file.name}: restore it with git checkout")
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if card.name != path.stem or card.licence != LICENCE or (digest, len(data)) != (card.sha256, card.size):
        raise ResultsError(f"{path.name} is not the card of {file.name}: make models NAME={path.stem} FILE=…")
    named = [row["run_id"] for row in card.rows]
    mine = measured(rows, pd.DataFrame() if runs is None else runs, digest, named)
    for _, row in mine.iterrows():
        if abs(row["size_mb"] - len(data) / 2**20) > 1e-4 * row["size_mb"]:
            raise ResultsError(f"{row['experiment']} has {row['size_mb']} MB, {file.name} has not")
    facts = (card.name, _what(file), digest, len(data), LICENCE, card.made, _rows_as_data(mine))
    return Card(*facts, card.confirmed)


def _read(path: Path) -> Card:
    try:
        return Card(**json.loads(path.read_text(encoding="utf8")))
    except (ValueError, TypeError) as error:
        raise ResultsError(f"{path.name} is damaged ({str(error)[:100]}): git checkout restores it") from None


def _what(file: Path) -> str:
    header, _ = opened(file)
    bits = inspect(file)["bits each"].iloc[-1]
    graph = GRAPH if "int8" in header["graphs"] else ""
    return f"YOLOv8n packed into {file.stat().st_size / 2**20:.2f} MB: {bits:.1f} bits a weight{graph}"


def _rows_as_data(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """One row an experiment; last the fastest of the usual size, which the table of all models shows."""
    if rows.empty:
        return []
    shown = headline(rows)
    order = shown.assign(usual=~shown["experiment"].str.contains(" px")).sort_values(
        ["usual", "speedup"], na_position="first", kind="stable"
    )
    columns = [*KEPT, *(name for name in rows if name.startswith(LATER))]
    return [{key: None if pd.isna(row[key]) else row[key] for key in columns} for _, row in order.iterrows()]


def _texts(cards: list[Card]) -> dict[str, str]:
    texts = {}
    for card in cards:
        texts[f"{FOLDER}/{card.name}.json"] = json.dumps(asdict(card), indent=1, ensure_ascii=False) + "\n"
        texts[f"{FOLDER}/{card.name}.md"] = _page(card)
    texts[f"{FOLDER}/README.md"] = _overview(sorted(cards, key=lambda card: card.size))
    return texts


def _page(card: Card) -> str:
    made = "\n".join(f"- {key}: {value}" for key, value in card.made.items() if key != HISTORY)
    lines = [
        f"# {card.name}.mcpk", "", f"{card.what}.", "",
        "Run it with this project installed:", "", "```bash",
        f"modelcompression detect photo.jpg --model {card.name}", "```", "", *_without_graph(card),
        f"- sha256: `{card.sha256}`", f"- bytes: {card.size}",
        f"- licence: [{card.licence}](../LICENSE), as ultralytics and the YOLOv8 weights",
        "", "How it was made:", "", made, "", *_history(card), "What was measured with this file:", "",
    ]  # fmt: skip
    lines += _measured_table(card)
    if card.confirmed:
        delta, speed = _delta(card.confirmed), interval_of(card.confirmed, "speedup", 1, ".2f")
        lines += [
            *([""] if card.rows else []),
            f"Confirmed on {card.confirmed['confirmed_images']:.0f} photographs: mAP50-95 {delta} %, a loss "
            f"of at most {bound_of(card.confirmed)} %; {speed} times the original's speed "
            f"({card.confirmed.get('cpu', '?')}; commit {card.confirmed.get('git_commit', '?')}).",
        ]
    elif not card.rows:
        lines.append("Nothing yet.")
    return "\n".join(lines) + "\n"


def _without_graph(card: Card) -> list[str]:
    if card.what.endswith(GRAPH):
        return []
    slow = "There it runs in PyTorch, about as fast as the original. The × below is OpenVINO's, with what"
    return [slow, '`checkpoint.to_openvino(file, folder, "f32")` writes.', ""]


def _history(card: Card) -> list[str]:
    """A healing's way down: a list of (steps, seconds, training loss, held-out distance) on its card."""
    way = card.made.get(HISTORY)
    if not way:
        return []
    shown = ", ".join(f"{step}: {held_out:.2f}" for step, *_, held_out in way)
    return [f"Nats an image from the original, on held-out photographs, by steps of training: {shown}.", ""]


def _delta(row: dict[str, Any]) -> str:
    return interval_of(row, "map50_95_delta", 100, "+.1f")


def _measured_table(card: Card) -> list[str]:
    if not card.rows:
        return []
    head = "| Row | Δ mAP50-95, % | loss at most, % | × faster | photographs | CPU | run | commit |"
    return [head, "| --- | --: | --: | --: | --: | --- | --- | --- |", *map(_measured_line, card.rows)]


def _measured_line(row: dict[str, Any]) -> str:
    cells = [
        row["experiment"], interval_of(row, "map50_95_delta", 100, "+.1f"), bound_of(row),
        interval_of(row, "speedup", 1, ".2f"), _photographs(row),
        f"{row['cpu']} ({row['isa']}), threads: {row['threads']}", row["run_id"][:8], row["git_commit"],
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def interval_of(row: dict[str, Any], name: str, scale: float, form: str) -> str:
    """A number with its 95 % interval, the confirmed one where there is one; – where there is none."""
    prefix = "confirmed_" if row.get(f"confirmed_{name}") is not None else ""
    value, low, high = (row.get(f"{prefix}{name}{end}") for end in ("", "_lo", "_hi"))
    if value is None:
        return "–"
    return f"{scale * value:{form}} [{scale * low:{form}}, {scale * high:{form}}]".replace("-", "−")


def bound_of(row: dict[str, Any]) -> str:
    """The confirmed one-sided 95 % bound of the loss, in per cent."""
    bound = row.get("confirmed_loss_bound")
    return "–" if bound is None else f"{100 * bound:.1f}"


def _photographs(row: dict[str, Any]) -> str:
    """How many the loss was measured on."""
    count = row.get("confirmed_images") or row.get("images")
    return f"{count:.0f}" if count else "–"


def _shapes(cards: list[Card]) -> str:
    """On which inputs times were taken; ``confirm`` shows rectangles to a file that has no run."""
    padded = [c.name for c in cards if c.confirmed or "rectangles" in c.default.get("experiment", "")]
    return f"of {' and '.join(padded)} on rectangles, of others on squares" if padded else "on a square"


def _overview(cards: list[Card]) -> str:
    lines = [
        "# Models to take home", "",
        "Packed checkpoints of YOLOv8n, ready for `modelcompression detect`; each with a card. Made by",
        "`make models` from runs: no number here is typed. Δ and × compare with the original in PyTorch, on",
        "the CPU that the card names, Δ on as many photographs as its line says. × is one forward pass in",
        f"OpenVINO, {_shapes(cards)}. `modelcompression detect` pads photographs to rectangles; a file",
        "without an INT8 graph runs in PyTorch there, about as fast as the original. *Loss at most* is the",
        "one-sided 95 % bound; – means that it is not confirmed. *Nats*, *healed* and other words: the",
        "[glossary](../docs/glossary.md), [словарь](../docs/glossary.ru.md).", "",
        "| Model | MB | Δ mAP50-95, % | loss at most, % | photographs | × faster | What it is |",
        "| --- | --: | --: | --: | --: | --: | --- |",
    ]  # fmt: skip
    for card in cards:
        row = card.default
        delta, speed = _delta(row), interval_of(row, "speedup", 1, ".2f")
        cells = [f"[{card.name}]({card.name}.md)", f"{card.size / 2**20:.2f}"]
        cells += [delta, bound_of(row), _photographs(row), speed, card.what]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _write(root: Path, contents: dict[str, bytes]) -> None:
    try:
        replace({root / name: data for name, data in contents.items()})
    except OSError as error:
        raise ResultsError(str(error)) from None


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("name", nargs="?", help="of the model that is to be added or replaced")
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument("--run", metavar="EXPERIMENT", help="take the file of this experiment's latest run")
    origin.add_argument("--file", type=Path, help="take this file")
    parser.add_argument("--confirmed", type=Path, help="what confirm --json wrote, for the cards it names")
    parser.add_argument("--record", type=Path, help="with --file: how it was made, JSON")
    wish = parser.parse_args(arguments)
    if bool(wish.name) != bool(wish.run or wish.file) or bool(wish.file) != bool(wish.record):
        parser.error("give a name with --run EXPERIMENT, or with --file FILE and --record RECORD, or nothing")
    from modelcompression.tracking.history import finished_runs  # MLflow takes seconds to import

    rows, runs = read_rows(ROOT), finished_runs()
    if wish.name:
        with tempfile.TemporaryDirectory() as folder:
            file, made = (
                of_run(wish.run, runs, Path(folder)) if wish.run else (wish.file, record_of(wish.record))
            )
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            named = [made["run"]] if wish.run else []
            take(ROOT, wish.name, file, made, measured(rows, runs, digest, named))
    if wish.confirmed:
        confirm_cards(ROOT, confirmations(wish.confirmed))
    _write(ROOT, {name: text.encode() for name, text in card_files(ROOT, rows, runs).items()})
    for path in sorted((ROOT / FOLDER).glob("*.mcpk")):
        print(f"{path.relative_to(ROOT)}: {_read(path.with_suffix('.json')).what}")


if __name__ == "__main__":
    script(main)
