"""The wheel: what it holds, and that it finds that without the project around it."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from rao_kedro.errors import ParameterError
from rao_kedro.framework import config_loader
from rao_kedro.framework.config_loader import StudyConfigLoader, conf_in_use

ROOT = Path(__file__).parents[1]
PROMPTS = "data/01_raw/prompts.jsonl"
CONVERSATIONS = ("data/01_raw/conversations.jsonl.gz", "data/01_raw/conversations.md")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a copy of the sources, as `kedro package` builds it, with a secret of the builder's beside them."""
    directory = tmp_path_factory.mktemp("build")
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, directory)
    (directory / PROMPTS).parent.mkdir(parents=True)
    for name in (PROMPTS, *CONVERSATIONS):
        shutil.copy(ROOT / name, directory / name)
    (directory / "conf/local/credentials.yml").write_text("api_keys: {OPENAI_API_KEY: secret}")
    code = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=directory, check=True, capture_output=True)
    (built,) = (directory / "dist").glob("*.whl")
    return built


def test_a_wheel_holds_all_that_a_run_needs_and_nothing_local(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        scripts = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    sources = [p for p in (ROOT / "src/rao_kedro").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    wanted = {str(path.relative_to(ROOT / "src")) for path in sources}
    files = ["git", "ls-files", "conf", PROMPTS, *CONVERSATIONS]
    tracked = subprocess.run(files, cwd=ROOT, capture_output=True, text=True, check=True)
    wanted |= {f"rao_kedro/shipped/{name}" for name in tracked.stdout.splitlines()}
    assert wanted - names == set() and "rao_kedro/__main__.py" in names
    assert not [name for name in names if "credentials" in name]
    assert "rao_kedro = rao_kedro.__main__:main" in scripts


@pytest.fixture
def installed(wheel, tmp_path, monkeypatch):
    """An empty current directory, and the package's files elsewhere."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr(config_loader, "SHIPPED", tmp_path / "site/rao_kedro/shipped")
    return tmp_path


def files_of(conf_source, env=None):
    """Return where the accelerate file and the prompts are with a configuration."""
    loader = StudyConfigLoader(str(conf_source), env, base_env="base", default_run_env="local")
    workers, prompts = loader["parameters"]["workers"], loader["catalog"]["prompts"]
    return [Path(workers["accelerate_config"]), Path(prompts["filepath"])]


def test_without_a_configuration_that_of_the_package_is_used(installed):
    empty = installed / "empty"
    conf = conf_in_use(str(empty / "conf"), empty)
    assert conf == str(config_loader.SHIPPED / "conf")
    assert files_of(conf) == [config_loader.SHIPPED / "conf/accelerate/cpu.yaml", config_loader.SHIPPED / PROMPTS]
    assert conf_in_use(str(installed / "mine"), empty) == str(installed / "mine")


def test_files_of_the_project_and_its_configuration_come_first(installed):
    shutil.copytree(ROOT / "conf", installed / "empty/conf")
    (installed / "empty" / PROMPTS).parent.mkdir(parents=True)
    shutil.copy(ROOT / PROMPTS, installed / "empty" / PROMPTS)
    conf = conf_in_use(str(installed / "empty/conf"), installed / "empty")
    assert files_of(conf) == [installed / "empty/conf/accelerate/cpu.yaml", Path(PROMPTS)]


def test_an_accelerate_file_of_a_configuration_in_an_archive_is_the_archives(installed):
    shutil.copytree(ROOT / "conf", installed / "conf")
    (installed / "conf/accelerate/cpu.yaml").write_text("edited: true")
    with tarfile.open(archive := installed / "conf-rao_kedro.tar.gz", "w:gz") as tar:
        tar.add(installed / "conf", "conf")
    accelerate_config, prompts = files_of(archive)
    assert accelerate_config.read_text() == "edited: true" and prompts == config_loader.SHIPPED / PROMPTS


def test_an_environment_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ParameterError, match=r"no environment 'tset' .*: choose one of base, .*test, ultrafeedback"):
        files_of(ROOT / "conf", "tset")
