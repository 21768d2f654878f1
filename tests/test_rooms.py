"""The house: nothing imports upward, no module is too long, no public name means two things."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelcompression import ROOT

PACKAGE = ROOT / "modelcompression"
# From the ground up; a module may import from its own floor and from those before it.
FLOORS = [
    {"__init__", "errors", "files", "terminal", "grid", "fetch", "machine", "boxes", "frames", "cards"}
    | {"labels", "intact"},
    {"subject", "network", "assets", "dataset", "detector", "ncnn_file", "nanodet"} | {"parameters"},
    {"images", "packed"},
    {"measure", "methods", "tracking"},
    {"figures", "goals", "diagrams"},
    {"detect", "differences"},
    {
        "campaign",
        "homework",
        "measurement",
        "looking",
        "shipped_models",
        "recommend",
        "confirm",
        "runner",
        "skeleton",
    }
    | {"compress", "judge", "own_model", "recipes", "verdict", "prefetch"},
    {"cli", "__main__"},
]
LONGEST = 350
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    """``measure.accuracy`` → ``measure``; a module of the package itself is its own room."""
    return module.split(".")[0] or "__init__"


def imported(path: Path) -> Iterator[str]:
    """Rooms that a module imports from, wherever in it."""
    here = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = here[: len(here) - node.level]
        module = [*base, *(node.module or "").split(".")] if node.module else [*base]
        if module:
            yield module[0]
        else:
            yield from (n.name if (PACKAGE / n.name).exists() or (PACKAGE / f"{n.name}.py").exists()
                        else "__init__" for n in node.names)  # fmt: skip


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


@pytest.mark.parametrize("path", MODULES, ids=[str(p.relative_to(PACKAGE)) for p in MODULES])
def test_a_module_is_short_and_imports_nothing_from_above(path: Path) -> None:
    assert len(path.read_text(encoding="utf8").splitlines()) <= LONGEST
    mine = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if mine in ("coco", "demo_photos"):
        return
    upward = {name for name in imported(path) if floor(name) > floor(mine)}
    assert not upward, f"{mine} is below {', '.join(upward)}"


def test_the_drawing_shows_every_room_where_it_is() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf8")
    drawn = text.partition("## Where do I put")[2].split("```")[1].splitlines()
    lines = [line.partition("#")[0].split() for line in drawn if line]
    floors = [{floor(name) for name in names} for names in lines]
    assert all(len(found) == 1 for found in floors)
    order = [found.pop() for found in floors]
    assert order == sorted(order, reverse=True)
    rooms = set().union(*FLOORS) - {"__init__", "__main__"}
    assert sorted(name for names in lines for name in names) == sorted(rooms)


def test_measure_methods_and_tracking_do_not_know_each_other() -> None:
    apart = {"measure", "methods", "tracking"}
    for name in apart:
        found = {other for path in (PACKAGE / name).glob("*.py") for other in imported(path)}
        assert not found & (apart - {name})


def test_public_functions_have_one_meaning() -> None:
    places = defaultdict(list)
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    twice = {name: where for name, where in places.items() if len(where) > 1 and "cli.py" not in where}
    assert not twice


def test_every_room_says_where_to_start() -> None:
    for name in ("measure", "methods", "packed", "tracking"):
        text = ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text(encoding="utf8")))
        question, _, rest = text.partition("\n\n")
        assert question.count("?") == 1 and 2 <= rest.count("* ") <= 4
