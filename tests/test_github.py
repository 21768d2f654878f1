"""What GitHub reads, workflows, forms, citation, is valid and true of this repository."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import check_jsonschema
import pytest
import yaml
from click.testing import CliRunner

from modelcompression import REPOSITORY, ROOT, __version__

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").iterdir())
CONFIG = GITHUB / "ISSUE_TEMPLATE" / "config.yml"
FORMS = sorted(set(CONFIG.parent.iterdir()) - {CONFIG})
CITATION = ROOT / "CITATION.cff"
SCHEMAS = (
    dict.fromkeys(WORKFLOWS, "vendor.github-workflows")
    | dict.fromkeys(FORMS, "vendor.github-issue-forms")
    | {CONFIG: "vendor.github-issue-config", CITATION: "vendor.citation-file-format"}
)
# In each kind of file, a word that a slip of the fingers breaks.
SLIPS = {"runs-on": "run-on", "body": "boddy", "about": "abuot", "cff-version": "cff-versoin"}
TARGETS = set(re.findall(r"^([a-z]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf8"), re.M))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
ACTION = re.compile(r"[\w-]+/[\w./-]+@(v\d+(\.\d+){0,2}|[0-9a-f]{40})")
MAKE = re.compile(r"\bmake ([a-z]+)")
ACTIONLINT = shutil.which("actionlint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
form = pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    """YAML with all scalars as text: to YAML 1.1, the word ``on`` is true and 3.10 is 3.1."""
    return yaml.load(path.read_text(encoding="utf8"), Loader=yaml.BaseLoader)


def steps(path: Path) -> Iterator[dict[str, Any]]:
    return chain.from_iterable(job["steps"] for job in read(path)["jobs"].values())


def schema_errors(path: Path, schema: str) -> str:
    done = CliRunner().invoke(check_jsonschema.main, ["--builtin-schema", schema, "--", str(path)])
    return done.output if done.exit_code else ""


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.stem)
def test_files_follow_their_schema(path: Path, tmp_path: Path) -> None:
    assert schema_errors(path, SCHEMAS[path]) == ""
    text = path.read_text(encoding="utf8")
    word = next(word for word in SLIPS if f"{word}:" in text)
    slipped = tmp_path / path.name
    slipped.write_text(text.replace(f"{word}:", f"{SLIPS[word]}:"), encoding="utf8")
    assert "Schema validation errors" in schema_errors(slipped, SCHEMAS[path])


@pytest.mark.skipif(not ACTIONLINT, reason="no actionlint beside Python or on the PATH")
def test_actionlint_has_nothing_to_say() -> None:
    command = [ACTIONLINT, "-shellcheck=", *WORKFLOWS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@workflow
def test_workflows_pin_actions_and_ask_for_little(path: Path) -> None:
    contents = read(path)
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used and [name for name in used if not ACTION.fullmatch(name)] == []
    assert contents["permissions"] == {"contents": "read"}
    writing = [name for name, job in contents["jobs"].items() if "permissions" in job]
    assert writing == (["release"] if path.stem == "release" else [])
    assert contents["concurrency"]["cancel-in-progress"] == ("false" if path.stem == "release" else "true")
    for job in contents["jobs"].values():
        assert int(job["timeout-minutes"]) <= 90
        assert not job["runs-on"].endswith("-latest")


@workflow
def test_workflows_call_what_a_laptop_can_call(path: Path) -> None:
    scripts = [step["run"] for step in steps(path) if "run" in step]
    files = [ROOT / word for script in scripts for word in script.split() if word.startswith(".ci/")]
    assert all(os.access(file, os.X_OK) for file in files)
    called = MAKE.findall("\n".join([*scripts, *(file.read_text(encoding="utf8") for file in files)]))
    assert path.stem in called
    assert set(called) <= TARGETS


@workflow
def test_caches_depend_on_files_that_exist(path: Path) -> None:
    settings = [step.get("with", {}) for step in steps(path)]
    patterns = [name for one in settings for name in one.get("cache-dependency-path", "").split()]
    patterns += re.findall(r"hashFiles\('(.+?)'\)", " ".join(one.get("key", "") for one in settings))
    assert [pattern for pattern in patterns if not any(ROOT.glob(pattern))] == []


def test_python_versions_begin_with_the_oldest_supported() -> None:
    matrix = read(GITHUB / "workflows" / "check.yml")["jobs"]["check"]["strategy"]["matrix"]["python"]
    assert PROJECT["requires-python"] == f">={matrix[0]}"
    assert matrix == sorted(set(matrix), key=lambda version: int(version.partition(".")[2]))


@form
def test_forms_ask_for_what_an_answer_needs(path: Path) -> None:
    fields = [field for field in read(path)["body"] if field["type"] != "markdown"]
    ids = [field["id"] for field in fields]
    assert len(set(ids)) == len(ids)
    required = {field["id"] for field in fields if field.get("validations", {}).get("required") == "true"}
    assert required >= {"version", "command", "expected", "found"}
    version = next(field for field in fields if field["id"] == "version")["attributes"]
    assert "modelcompression --version" in version["description"] and "CPU" in version["label"]
    assert len({read(other)["name"] for other in FORMS}) == len(FORMS)


def test_links_of_forms_lead_into_the_repository() -> None:
    for link in read(CONFIG)["contact_links"]:
        target, _, heading = link["url"].partition("#")
        file = ROOT / target.removeprefix(f"https://github.com/{REPOSITORY}/blob/main/")
        assert file.is_file(), link["url"]
        headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf8"), re.M)
        anchors = {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
        assert not heading or heading in anchors


def test_forms_and_templates_name_targets_that_exist() -> None:
    texts = [path.read_text(encoding="utf8") for path in [*FORMS, GITHUB / "pull_request_template.md"]]
    called = {target for text in texts for target in re.findall(r"`make ([a-z]+)", text)}
    assert called and called <= TARGETS


def test_citation_and_changelog_name_this_version() -> None:
    citation = read(CITATION)
    assert citation["version"] == __version__
    assert citation["repository-code"] == f"https://github.com/{REPOSITORY}"
    assert citation["license"] == PROJECT["license"]
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf8"), re.M)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d", headings[1])
    dates = [heading.rpartition(" ")[2] for heading in headings[1:]]
    assert dates == sorted(dates, reverse=True)
