"""README and docs: every command, parameter and Python block on them works, or is marked as not run, with a reason."""

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from kedro.framework.cli.cli import KedroCLI
from kedro.framework.project import configure_project
from kedro.framework.startup import bootstrap_project

from rao_kedro.cli import run as kedro_run
from rao_kedro.errors import ParameterError
from rao_kedro.framework.session import StudySession

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)(?: title=\"(?P<title>[^\"]*)\")?\s*$")
MARK = re.compile(r"<!-- not run here: (?P<reason>\S.*) -->")
LANGUAGES = {"bash", "python", "yaml", "text", "json"}
COMMANDS = ("kedro ", "make ", "python ", "pip ", "rao_kedro ", ".venv/bin/", "source ", "export ")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    title: str | None
    text: str
    reason: str | None  # why it is not run

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page):
    lines, found, i = page.read_text().splitlines(), [], 0
    while i < len(lines):
        opening = FENCE.match(lines[i])
        if opening is None:
            i += 1
            continue
        end = next(j for j in range(i + 1, len(lines)) if lines[j].strip() == "```")
        above = next((line.strip() for line in reversed(lines[:i]) if line.strip()), "")
        mark = MARK.fullmatch(above)
        body = "\n".join(line.removeprefix(opening["indent"]) for line in lines[i + 1 : end])
        reason = mark["reason"] if mark else None
        found.append(Block(page, i + 1, opening["language"], opening["title"], body, reason))
        i = end + 1
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of(language, marked=False):
    return [b for b in BLOCKS if b.language == language and (marked or b.reason is None)]


@pytest.fixture(scope="module", autouse=True)
def project():
    bootstrap_project(ROOT)
    configure_project("rao_kedro")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_stands_in_a_fenced_block_of_a_known_language(page):
    unknown = [str(block) for block in blocks_of(page) if block.language not in LANGUAGES]
    assert not unknown, f"say which language: {unknown}"
    plain = [block for block in blocks_of(page) if block.language in ("text", "json")]
    inside = [str(b) for b in plain if any(line.lstrip().startswith(COMMANDS) for line in b.text.splitlines())]
    assert not inside, f"commands in blocks that nothing checks: {inside}"
    indented = [line for line in page.read_text().splitlines() if re.match(r" {4,}(?:kedro|make|\.venv/bin/) ", line)]
    fenced = "\n".join(block.text for block in blocks_of(page))
    assert [line for line in indented if line.strip() not in fenced] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_links_to_is_there(page):
    generated = {"parameters.md", "defaults.md", "tables.md", "objectives.md"}  # docs/hooks/reference_pages.py
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)[^)]*\)", text)
    missing = [link for link in links if not (page.parent / link).exists() and Path(link).name not in generated]
    results = [link for link in missing if (ROOT / "benchmarks" / link).exists()]
    assert sorted({*missing} - {*results}) == []


def test_every_page_that_code_and_configuration_name_is_there():
    named = subprocess.run(
        ["git", "grep", "-hoE", r"docs/[a-z_/0-9]+\.md", "--", "conf", "src", "benchmarks", "notebooks", "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(page for page in {*named.stdout.split()} if not (ROOT / page).exists()) == []


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_a_python_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, str(block), "exec"), {"__name__": "block"})


# Shell commands


def commands_of(text):
    """Return the commands of a block, with the variables that it sets put in, without comments."""
    variables, commands = dict(os.environ) | {"PWD": str(ROOT)}, []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.startswith("#!"):
            continue
        words = [
            re.sub(r"\$\{?(\w+)\}?", lambda found: variables[found[1]], w) for w in shlex.split(line, comments=True)
        ]
        if words and (set_ := re.fullmatch(r"(\w+)=(.*)", words[0])) and len(words) == 1:
            variables[set_[1]] = set_[2]
        elif words:
            commands.append(words)
    return commands


def options_of(words):
    """Return what `kedro run` reads from its arguments; an unknown option is a `click.UsageError`."""
    return kedro_run.make_context("kedro run", list(words)).params


def check_kedro_run(words, tmp_path):
    options = options_of(words)
    env = options["env"]
    assert env is None or (ROOT / "conf" / env / "globals.yml").is_file(), f"there is no environment {env}"
    names = [options["pipeline"]] if options["pipeline"] else list(options["pipelines"] or ())
    selecting = ("tags", "node_names", "from_nodes", "to_nodes", "from_inputs", "to_outputs", "namespaces")
    with StudySession.create(ROOT, env=env, runtime_params=options["params"]) as session:
        session.selected(pipeline_names=names, **{name: options[name] for name in selecting if options[name]})


def check_make(words):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    variables = re.findall(r"^(\w+) [?:]?=", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for word in words:
        name, sign, _ = word.partition("=")
        assert name in (variables if sign else targets), f"Makefile has no {name}"


@pytest.mark.parametrize("block", of("bash"), ids=str)
def test_a_shell_command_can_be_given_as_it_stands(block, tmp_path):
    for words in commands_of(block.text):
        match words:
            case ["kedro" | ".venv/bin/kedro", "run", *rest]:
                check_kedro_run(rest, tmp_path)
            case ["make", *rest]:
                check_make(rest)
            case ["source", ".venv/bin/activate"]:
                pass
            case _:
                pytest.fail(f"nothing checks {' '.join(words)!r}: mark the block with <!-- not run here: reason -->")


@pytest.mark.parametrize("block", [b for b in of("bash", marked=True) if b.reason], ids=str)
def test_options_exist_also_where_a_command_is_not_run(block):
    known = KedroCLI(ROOT).list_commands(click.Context(kedro_run))
    for words in commands_of(block.text):
        match words:
            case ["kedro" | ".venv/bin/kedro", "run", *rest]:
                options_of(rest)
            case ["kedro" | ".venv/bin/kedro", command, *_]:
                assert command in known
            case ["make", *rest]:
                check_make(rest)


# Configuration


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_a_yaml_block_is_an_environment_that_works(block, tmp_path):
    assert block.title, 'name the file: ```yaml title="conf/my_model/globals.yml"'
    folder, env, name = block.title.split("/")
    assert folder == "conf" and name in ("globals.yml", "parameters.yml", "catalog.yml")
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    place = tmp_path / block.title
    assert not place.exists()
    place.parent.mkdir(exist_ok=True)
    (place.parent / "globals.yml").write_text("data_root: data/mine\n")
    place.write_text(block.text)
    with StudySession.create(tmp_path, env=env) as session:
        context = session.load_context()
        assert context.params
        if name == "catalog.yml":
            for entry in re.findall(r"^(\w+):", block.text, flags=re.MULTILINE):
                assert str(context.catalog.get(entry)._filepath).startswith(str(tmp_path / "path"))


def test_a_block_that_nothing_checks_is_found(tmp_path):
    """The checks above can fail: each of these blocks has a fault."""
    faults = {
        "--no-such-option": click.UsageError,
        "--env tset": AssertionError,
        "--params betta=1": ParameterError,
        "--to-outputs simpo.polcy": ParameterError,
    }
    for words, error in faults.items():
        with pytest.raises(error):
            check_kedro_run(words.split(), tmp_path)
    with pytest.raises(AssertionError, match="Makefile has no tset"):
        check_make(["tset"])
