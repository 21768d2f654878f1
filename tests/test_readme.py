"""READMEs and docs/ say the same in both languages: structure, commands, links and every number."""

import re
from collections import Counter
from pathlib import Path

import pytest

from modelcompression import ROOT
from modelcompression.runner import badge

PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if ".ru." not in p.name)]
WORDS = 900  # of a screen: what stands before the long table
page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
NUMBER = re.compile(r"(?<![A-Za-z\d])\d+(?:[.,]\d+)?")
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


def headings(text: str) -> list[int]:
    return [len(marks) for marks in re.findall(r"^(#+) ", without_code(text), re.M)]


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.S)


def commands(text: str) -> list[str]:
    """Code without comments, which are in the reader's language."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.S)
    lines = [re.sub(r"\s+#.*|^#.*", "", line).rstrip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def tables(text: str) -> list[tuple[int, int]]:
    """Rows and columns of each table."""
    runs = re.findall(r"(?:^\|.*\n)+", without_code(text), re.M)
    return [(run.count("\n"), run.splitlines()[1].count("|") - 1) for run in runs]


def numbers(text: str) -> Counter:
    prose = re.sub(r"`[^`]*`|\(https?://[^)]*\)", "", without_code(text))
    return Counter(number.replace(",", ".") for number in NUMBER.findall(prose))


def both(path: Path) -> tuple[str, str]:
    return path.read_text(encoding="utf8"), path.with_suffix(".ru.md").read_text(encoding="utf8")


@page
@pytest.mark.parametrize("part", [headings, commands, tables])
def test_both_languages_have_the_same(part, path: Path) -> None:
    english, russian = both(path)
    assert part(english) == part(russian)


@page
def test_both_languages_have_the_same_numbers(path: Path) -> None:
    english, russian = map(numbers, both(path))
    assert english - russian == Counter() == russian - english


@page
def test_every_local_link_leads_somewhere(path: Path) -> None:
    for text, other in zip(both(path), (path.with_suffix(".ru.md").name, path.name), strict=True):
        targets = {target for target in LINK.findall(text) if not target.startswith("http")}
        assert other in targets
        assert [target for target in targets if not (path.parent / target).exists()] == []


def test_each_language_links_to_its_own_pages() -> None:
    english, russian = both(PAGES[0])
    for path in PAGES[1:]:
        assert f"(docs/{path.name})" in english and f"(docs/{path.stem}.ru.md)" in russian


def test_every_notebook_has_a_badge() -> None:
    for text in both(PAGES[0]):
        targets = [badge(path).rpartition("](")[2] for path in ROOT.glob("hw*_*/*.ipynb")]
        assert targets and [target for target in targets if target not in text] == []


def test_every_room_is_listed() -> None:
    for text in both(ROOT / "docs" / "house.md"):
        rooms = [path.parent.name for path in (ROOT / "modelcompression").glob("*/__init__.py")]
        assert rooms and [name for name in rooms if f"modelcompression/{name}/" not in text] == []


def test_the_readme_is_one_screen() -> None:
    for text, title in zip(both(PAGES[0]), ("### All experiments", "### Все эксперименты"), strict=True):
        assert text.count(title) == 1
        prose = re.sub(r"\]\([^)]*\)|<[^>]+>", " ", text.split(title)[0])
        assert len(re.findall(r"[\w.,'−+×%-]*\w[\w.,'−+×%-]*", prose)) <= WORDS
