"""One command for everything: ``modelcompression --help``.

Errors that the user can put right are one line and exit status 1, a wrong command line is exit status 2.
Each command imports what it needs when it runs: ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from . import REPOSITORY, __version__
from .errors import ModelCompressionError
from .terminal import forgive_encoding, one_line


class _Failure(click.ClickException):
    def show(self, file: Any = None) -> None:
        print(f"error: {self.format_message()}", file=sys.stderr)  # click would turn ASCII into UTF-8


class _Commands(click.Group):
    """Commands in the order in which they are written; what the user can put right is no traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `| head` has seen enough; click ends quietly
            raise
        except (ModelCompressionError, OSError) as error:
            raise _Failure(one_line(error)) from None
        except ModuleNotFoundError as error:  # `detect` is installed with less than the others need
            if (error.name or __package__).startswith(__package__):
                raise
            clone = f"in a clone of github.com/{REPOSITORY}"
            raise _Failure(f'{error.name} is not installed: pip install -e ".[all]" {clone}') from None


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from .machine import commit, cpu, versions

    click.echo(f"modelcompression {__version__}, commit {commit() or 'unknown'}")
    click.echo(f"CPU       {cpu()}")
    click.echo(f"versions  {versions()}")
    ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version,
              help="Version, commit, CPU and packages: what a report of a problem needs.")  # fmt: skip
def cli() -> None:
    """Make a detector smaller and faster, and know that it worked."""


def _command(example: str, **settings: Any) -> Callable:
    """A command whose help ends with an example."""
    return cli.command(epilog=f"Example: modelcompression {example}", **settings)


class _Share(click.ParamType):
    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            share = float(str(value).removesuffix("%")) / 100
        except ValueError:
            share = -1.0
        if not 0 <= share < 1:
            self.fail(f"'{value}' is no share from 0% to 100%, such as 1%", param, ctx)
        return share


SHARE = _Share()
HOMEWORK = click.argument("homework", nargs=-1, required=True)
FILE = click.Path(path_type=Path)


def _subject(command: Callable) -> Callable:
    """The options that put a model of one's own in the place of YOLOv8n."""
    for option in (
        click.option(
            "--trust", is_flag=True, help="The weights are yours: a .pt file runs code when opened."
        ),
        click.option("--data", type=FILE, help="The YAML of its data set; COCO if it has COCO's classes."),
        click.option("--weights", type=FILE, help="A .pt detector of your own in place of YOLOv8n."),
    ):
        command = option(command)
    return command


@_command("run hw5_export/fastest --weights best.pt --data my.yaml --trust")
@HOMEWORK
@_subject
def run(homework: tuple[str, ...], weights: Path | None, data: Path | None, trust: bool) -> None:
    """Execute the notebooks of HOMEWORK, log their runs, print their rows; no table changes.

    HOMEWORK is a folder (hw5_export), one notebook in it (hw5_export/fastest), or all; or several of these.
    """
    from . import runner
    from .parameters import own_subject

    runner.run(" ".join(homework), parameters=own_subject(weights, data, trust))


@_command("publish hw4_clustering")
@HOMEWORK
def publish(homework: tuple[str, ...]) -> None:
    """Execute like run, replace the committed notebooks, send the runs, regenerate the tables."""
    from . import runner

    runner.run(" ".join(homework), publishing=True)


@_command("smoke hw2_quantization")
@click.argument("homework", nargs=-1)
@_subject
def smoke(homework: tuple[str, ...], weights: Path | None, data: Path | None, trust: bool) -> None:
    """Execute notebooks on a handful of images; no table changes."""
    from . import runner
    from .parameters import own_subject

    runner.run(" ".join(homework) or "all", smoke=True, parameters=own_subject(weights, data, trust))


@_command("new hw7_example")
@click.argument("homework")
def new(homework: str) -> None:
    """Start a homework: its notebook, its test, a line in both READMEs."""
    from . import ROOT
    from .skeleton import create

    for path in create(homework):
        click.echo(path.relative_to(ROOT))


@_command("assets")
def assets() -> None:
    """Find or fetch weights and photographs, and say where they are."""
    from .assets import SOURCES, image_set
    from .fetch import UnreachableError
    from .subject import weights

    click.echo(f"weights            {weights()}")
    try:
        for name in SOURCES:
            found = image_set(name)
            click.echo(f"{name:18} {len(found)} images, {found.samples[0].path.parent}")
    except UnreachableError as error:
        click.echo(f"{error}\nEverything still runs on the demo photos.", err=True)


@_command("recommend --threads 4")
@click.option("--threads", type=click.IntRange(1), default=None, help="Threads of every runtime.  [2]")
def recommend(threads: int | None) -> None:
    """Which published model is best on this CPU? Times each against the original."""
    from . import recommend as recommending

    recommending.recommend(threads)


@_command("confirm 'INT8, lean graph' small.mcpk")
@click.argument("models", nargs=-1)
@click.option("--images", type=click.IntRange(1000, 5000), default=1000, show_default=True,
              help="Photographs of val2017.")  # fmt: skip
@click.option("--smoke", is_flag=True, help="A handful of photographs, for smoke runs.")
@click.option("--json", "target", type=click.Path(path_type=Path, dir_okay=False),
              help="Also write what was found to this file.")  # fmt: skip
def confirm(models: tuple[str, ...], images: int, smoke: bool, target: Path | None) -> None:
    """Do the winners hold on more photographs and in fresh processes? Adds the answer to their runs.

    MODELS are experiments of the tracking store, or packed checkpoints (.mcpk), which need no run. Without
    any, it is the models of this CPU that are recommended, their opponents, and the first table's: some
    minutes each. What was found is kept: a killed confirmation goes on where it was.
    """
    from . import confirm as confirming

    confirming.confirm(models, images, smoke, target)


@_command("detect photo.jpg --save boxes")
@click.argument("sources", nargs=-1, required=True, metavar="PHOTO…")
@click.option(
    "--model", help="A .mcpk file, the name of one in models/, or an OpenVINO folder.  [the fastest]"
)
@click.option("--save", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Write pictures and videos with boxes into this folder.")  # fmt: skip
@click.option("--json", "lines", is_flag=True, help="A line of JSON for each picture.")
@click.option("--confidence", type=float, default=0.25, show_default=True, help="Leave out boxes below.")
@click.option(
    "--size", type=int, default=None, help="Long side of the input, pixels.  [as packed or trained]"
)
@click.option("--square", is_flag=True, help="Pad photographs to squares instead of rectangles.")
@click.option("--threads", type=click.IntRange(1), default=None, help="Threads of the runtime.  [all cores]")
def detect(
    sources: tuple[str, ...], model: str | None, save: Path | None, lines: bool, **settings: Any
) -> None:
    """Find objects in photographs, folders of them, videos, or a camera given by its number.

    Nothing is written unless asked for by --save.
    """
    from .detect import Model
    from .looking import Looking

    looking = Looking(Model(model, **settings), save, lines)
    looking.at(sources)
    print(looking.summary(), file=sys.stderr)


@_command("models")
def models() -> None:
    """The models that can be taken home: what they are, and whether their files are whole."""
    from .cards import cards
    from .fetch import verify

    for card in cards():
        verify(card.file, card.sha256)
        click.echo(f"{card.name:20} {card.size / 2**20:5.2f} MB  {card.what}")


@_command("inspect small.mcpk")
@click.argument("file", type=FILE)
def inspect(file: Path) -> None:
    """What takes how many bytes in a packed checkpoint."""
    from .packed import checkpoint

    click.echo(checkpoint.inspect(file).to_string(index=False, na_rep=""))


@_command("compress best.pt --data my.yaml --for both --max-loss 1% --trust")
@click.argument("weights", type=FILE)
@click.option("--data", type=FILE, help="YAML of a data set, as for ultralytics.")
@click.option("--images", type=FILE, help="A folder of photographs without labels.")
@click.option(
    "--for", "goal", type=click.Choice(["fast", "small", "both"]), default="both", show_default=True,
    help="fast: an INT8 graph; small: a packed checkpoint; both: these two, and one file with both.",
)  # fmt: skip
@click.option(
    "--max-loss",
    type=SHARE,
    default=None,
    help="Largest loss, in per cent: 2 or 2%.  [1%; without labels 5%]",
)
@click.option("--out", type=FILE, default=None, help="Folder for files and report.  [WEIGHTS-compressed]")
@click.option("--size", type=click.IntRange(32), default=None, help="Input in pixels.  [as trained]")
@click.option("--trust", "trusted", is_flag=True, help="The .pt file is mine: opening it may run its code.")
@click.option("--sha256", default=None, help="Open the .pt file if this is its hash.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True,
              help="Threads that everything is timed with.")  # fmt: skip
def compress(weights: Path, out: Path | None, **wish: Any) -> None:
    """Make a detector of one's own smaller and faster: files that run, and a report of what it cost.

    WEIGHTS is the .pt file of any detector of ultralytics', YOLOv5u to YOLO26. Photographs come from --data,
    the YAML that it was trained with; without labels, a folder of --images does: then the promise is
    agreement with the original instead of mAP. What was done is kept: a killed compression goes on where it
    was.
    """
    from . import compress as compressing

    wanted = compressing.Wish(weights=weights, out=out or Path(f"{weights.stem}-compressed"), **wish)
    for outcome in compressing.compress(wanted)[1:]:
        click.echo(outcome)
    click.echo(f"report: {wanted.out / 'report.html'}")


@_command("sync")
def sync() -> None:
    """Send runs kept in the local store to the tracking server."""
    from .tracking.sync import sync as send
    from .tracking.targets import resolve_target

    sent = send()
    click.echo(f"{sent} experiment(s) sent to {resolve_target().description}")


@_command("login")
def login() -> None:
    """Sign in to DagsHub in the browser; its client keeps the token."""
    from .tracking.login import sign_in
    from .tracking.targets import resolve_target

    sign_in()
    click.echo(f"signed in; runs go to {resolve_target().description}")


@_command("where")
def where() -> None:
    """Where do runs go?"""
    from .tracking.targets import resolve_target

    click.echo(resolve_target().description)


@_command("ui --port 5001")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(port: int) -> None:
    """Look at the local runs in a browser."""
    from .tracking.ui import show

    show(port)


def main() -> None:
    """The entry point."""
    forgive_encoding()
    cli(prog_name="modelcompression")
