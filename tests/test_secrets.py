"""No secret is committed, and the scan would find one."""

import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import secret_scan
from secret_scan import ALLOWED, findings, project_files

from modelcompression import ROOT

TOKEN = secrets.token_hex(20)
FAKES = {
    "a bare DagsHub token": f"the token is {TOKEN}",
    "a DagsHub token in a variable": f'DAGSHUB_USER_TOKEN = "{TOKEN}"',
    "a token literal": f'token = "{secrets.token_urlsafe(24)}"',
    "a password literal": f'password = "{secrets.token_hex(8)}"',
    "an environment variable": f'os.environ["MLFLOW_TRACKING_PASSWORD"] = "{secrets.token_hex(8)}"',
    "a URL with credentials": f"https://someone:{secrets.token_hex(8)}@dagshub.com/team/project.mlflow",
    "a GitHub token": "ghp_" + secrets.token_hex(18),
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
}


def notebook(path: Path, line: str, place: str) -> Path:
    """A notebook that says the line in a source, or in one kind of output."""
    text = f"x = 1\n{line}\nprint(x)"
    cell = nbformat.v4.new_code_cell("1" if place != "source" else text)
    outputs = {
        "stream": nbformat.v4.new_output("stream", text=text),
        "result": nbformat.v4.new_output("execute_result", {"text/plain": text}),
        "html": nbformat.v4.new_output("display_data", {"text/html": f"<p>{text}</p>"}),
        "error": nbformat.v4.new_output("error", ename="E", evalue="", traceback=["Traceback", text]),
    }
    cell.outputs = [outputs[place]] if place in outputs else []
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


needs_git = pytest.mark.skipif(not shutil.which("git"), reason="needs the program git")


@needs_git
def test_nothing_under_version_control_looks_like_a_secret() -> None:
    files = project_files()
    assert len(files) > 50
    assert [hit for path in files for hit in findings(path)] == []


@needs_git
@pytest.mark.parametrize("around", ["nothing", "another repository"])
def test_an_unpacked_archive_has_the_same_files(around: str, tmp_path: Path, monkeypatch) -> None:
    if around == "another repository":
        subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
        (tmp_path / ".gitignore").write_text("*")
    unpacked = tmp_path / "ModelCompression"
    (unpacked / "tests" / "__pycache__").mkdir(parents=True)
    (unpacked / "build").mkdir()
    (unpacked / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    for name in ("README.md", "tests/x y.py", "tests/__pycache__/x.pyc", "build/x.py"):
        (unpacked / name).write_text("")
    monkeypatch.setattr(secret_scan, "ROOT", unpacked)
    found = {path.relative_to(unpacked).as_posix() for path in project_files()}
    assert found == {".gitignore", "README.md", "tests/x y.py"}


@pytest.mark.parametrize("fake", FAKES.values(), ids=list(FAKES))
@pytest.mark.parametrize("place", ["text", "source", "stream", "result", "html", "error"])
def test_a_planted_secret_is_found_and_not_repeated(fake: str, place: str, tmp_path: Path) -> None:
    if place == "text":
        path = tmp_path / "planted.md"
        path.write_text(f"first line\n{fake}\n")
    else:
        path = notebook(tmp_path / "planted.ipynb", fake, place)
    hits = findings(path)
    assert hits and not any(fake in hit or TOKEN in hit for hit in hits)


@pytest.mark.parametrize(
    "line",
    [
        'token = os.environ["DAGSHUB_USER_TOKEN"]',
        "sha256: f59b3d833e2ff32e194b5bb8e08d211dc7c5bdf144b90d2c8412c47ccfc83b36",
        "git_commit eabb09c0ffee",
        f"{TOKEN}  # {ALLOWED}",
    ],
    ids=["a variable's name", "a hash with its kind", "a short commit", "allowed"],
)
def test_what_is_no_secret_passes(line: str, tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(line)
    assert findings(path) == []


def test_from_a_shell_it_fails_with_the_place(tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text(f"\n\n{TOKEN}\n")
    command = [sys.executable, Path(__file__).with_name("secret_scan.py"), tmp_path / "x.md"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "x.md:3: 40 hexadecimal digits" in done.stdout
    assert "1 lines look like secrets" in done.stderr and TOKEN not in done.stdout + done.stderr
