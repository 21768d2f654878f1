"""Both READMEs say the same: structure, commands, links and every number."""

import re
from collections import Counter

import pytest

from modelcompression import ROOT

ENGLISH, RUSSIAN = ((ROOT / name).read_text(encoding="utf8") for name in ("README.md", "README.ru.md"))
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


@pytest.mark.parametrize("part", [headings, commands, tables])
def test_both_readmes_have_the_same(part) -> None:
    assert part(ENGLISH) == part(RUSSIAN)


def test_both_readmes_have_the_same_numbers() -> None:
    english, russian = numbers(ENGLISH), numbers(RUSSIAN)
    assert english - russian == Counter() == russian - english


def test_every_local_link_leads_somewhere() -> None:
    for text, other in ((ENGLISH, "README.ru.md"), (RUSSIAN, "README.md")):
        targets = {target for target in LINK.findall(text) if not target.startswith("http")}
        assert other in targets
        assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_homework_and_room_is_listed() -> None:
    expected = [path.name for path in ROOT.glob("hw*_*") if path.is_dir()]
    expected += [f"modelcompression/{name}/" for name in ("measure", "methods", "packed", "tracking")]
    for text in (ENGLISH, RUSSIAN):
        assert [name for name in expected if name not in text] == []
