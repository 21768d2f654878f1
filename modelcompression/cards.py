"""Which models can be taken home? The files of ``models/`` and the card that comes with each.

``models/NAME.json`` is the card of ``models/NAME.mcpk``; ``results/models.py`` writes it from runs, so that
no number in it is typed. An installed package carries both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import ROOT
from .errors import ModelCompressionError

LICENCE = "AGPL-3.0"


class ModelMissing(ModelCompressionError, RuntimeError):
    """There is no such model, or its card is damaged; the message says which there are."""


@dataclass(frozen=True)
class Card:
    """What is known of one model that can be taken home.

    Attributes:
        name: of the model; its file is ``NAME.mcpk``.
        what: what it is, in a sentence.
        sha256, size: of the file; bytes.
        licence: as SPDX writes it.
        made: how the file was made: commit, device, photographs, steps, minutes; the keys are words.
        rows: the rows of ``results/results.csv`` that were measured with this very file, the fastest of
            the usual size last; numbers as fractions, megabytes and milliseconds, or None.
        confirmed: what ``modelcompression confirm`` found out about the file itself, under names that begin
            with ``confirmed_``, and on which CPU and commit; empty before.
    """

    name: str
    what: str
    sha256: str
    size: int
    licence: str
    made: dict[str, Any]
    rows: list[dict[str, Any]]
    confirmed: dict[str, Any] = field(default_factory=dict)

    @property
    def default(self) -> dict[str, Any]:
        """What a table says of the model: its last row, and what was confirmed; empty before any run."""
        return {**(self.rows[-1] if self.rows else {}), **self.confirmed}

    @property
    def speedup(self) -> float:
        """Times the original's speed, confirmed if it is; 0 if nobody has measured it."""
        return self.default.get("confirmed_speedup") or self.default.get("speedup") or 0.0

    @property
    def file(self) -> Path:
        """Where the packed checkpoint lies."""
        return folder() / f"{self.name}.mcpk"


def folder() -> Path:
    """``models/`` of the repository, or what an installed package has in its place."""
    here, installed = ROOT / "models", Path(__file__).with_name("models")
    return installed if installed.is_dir() else here


def cards() -> list[Card]:
    """The cards of all models, smallest file first.

    Raises:
        ModelMissing: a card cannot be read.
    """
    found = []
    for path in folder().glob("*.json"):
        try:
            found.append(Card(**json.loads(path.read_text(encoding="utf8"))))
        except (ValueError, TypeError) as error:
            reason = str(error)[:100]
            raise ModelMissing(f"{path} is damaged ({reason}): git checkout restores it") from None
    return sorted(found, key=lambda card: card.size)


def model_file(name: str | Path | None = None) -> Path:
    """The file of a model.

    Args:
        name: a path, or the name of a model in ``models/``; None: the fastest of ``models/``, as measured.

    Raises:
        ModelMissing: there is no such file.
    """
    if name is None:
        return fastest().file
    path = Path(name)
    if path.is_file():
        return path
    shipped = {card.name: card.file for card in cards()}
    if str(name) in shipped:
        return shipped[str(name)]
    known = ", ".join(shipped) or "none"
    raise ModelMissing(f"there is no model {name}: give a .mcpk file or the name of one in models/ ({known})")


def fastest() -> Card:
    """The confirmed model that gained most speed; else the measured one; else that of the largest file.

    Raises:
        ModelMissing: ``models/`` is empty.
    """
    found = cards()
    if not found:
        raise ModelMissing(f"{folder()} holds no model: give the path of a .mcpk file")
    return max(found, key=lambda card: (bool(card.default.get("confirmed_speedup")), card.speedup, card.size))
