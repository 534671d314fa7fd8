"""What pip installs: built from a clean copy of the source, installed without a network."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from importlib import import_module
from pathlib import Path

import pytest

import greenagent

ROOT = Path(__file__).parent.parent.parent
COMMANDS = {
    "greenagent": "greenagent.cli.agent.__main__",
    "greenagent-logs": "greenagent.cli.logs.__main__",
    "greenagent-ctl": "greenagent.cli.ctl.__main__",
    "greenagent-controller": "greenagent.cli.controller",
}
SERVICE_FILES = {
    "greenagent.toml": "greenagent.toml",
    "init.d/greenagent": "init.d/greenagent",
    "default/greenagent": "default/greenagent",
    "logrotate.d/greenagent": "logrotate.d/greenagent",
    "systemd/greenagent.service": "systemd/greenagent.service",
}


def run(*command: str | Path, folder: Path) -> str:
    """Runs a program to its end and returns what it printed; fails with that text."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("distribution")
    source = folder / "source"
    source.mkdir()
    for name in ("greenagent", "etc", "docs", "tests", "scripts", "benchmarks"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in ("*.py", "*.txt", "*.toml", "*.in", "*.md", "LICENSE"):
        for path in ROOT.glob(pattern):
            shutil.copy(path, source)
    left = source / "build" / "lib" / "greenagent" / "removed_long_ago.py"  # as pip leaves them in a checkout
    left.parent.mkdir(parents=True)
    left.write_text("")
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder / "in-place", folder=source)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder=source)
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (path,) = distributions.glob("*.whl")
    return path


def test_the_wheel_holds_every_module_and_the_service_files(wheel: Path) -> None:
    assert wheel.name == f"greenagent-{greenagent.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for installed, source in SERVICE_FILES.items():
            member = f"greenagent-{greenagent.__version__}.data/data/share/greenagent/{installed}"
            assert archive.read(member) == (ROOT / "etc" / source).read_bytes()
    package = ROOT / "greenagent"
    assert {f"greenagent/{path.relative_to(package)}" for path in package.rglob("*.py")} <= names
    assert "greenagent/py.typed" in names
    assert not [name for name in names if name.startswith("tests/")]


def test_what_an_earlier_build_left_is_not_packed_again(distributions: Path) -> None:
    (path,) = (distributions.parent / "in-place").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        assert "greenagent/removed_long_ago.py" not in archive.namelist()


def test_a_python_that_is_too_old_is_refused_before_anything_is_looked_for(tmp_path: Path) -> None:
    """With extras, pip tried every version of all that is needed, for minutes."""
    old = "import runpy, sys; sys.version_info = (3, 9, 18, 'final', 0); sys.modules['setuptools'] = None"
    done = subprocess.run(
        [sys.executable, "-c", f"{old}; runpy.run_path({str(ROOT / 'setup.py')!r})"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (1, "greenagent needs Python 3.10 or newer, this is 3.9\n")


def test_the_metadata_is_complete(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        information = f"greenagent-{greenagent.__version__}.dist-info"
        metadata = HeaderParser().parsestr(archive.read(f"{information}/METADATA").decode())
        points = archive.read(f"{information}/entry_points.txt").decode()
    assert metadata["Requires-Python"] == ">=3.10"
    assert (metadata["License"] or metadata["License-Expression"]) == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert {"controller", "metrics", "test"} <= set(metadata.get_all("Provides-Extra") or ())
    needed = metadata.get_all("Requires-Dist") or []
    plain = {re.split(r"[<>=; ]", line)[0] for line in needed if "extra ==" not in line}
    assert plain == {"gevent", "requests", "toml", "psutil", "peewee"}
    assert any(line.replace(" ", "").startswith("gevent>=25.4.1") for line in needed)
    of_test = {re.split(r"[<>=; ]", line)[0] for line in needed if re.search("extra == .test.", line)}
    assert {"falcon", "prometheus_client", "pytest", "hypothesis", "ruff", "mypy", "trustme"} <= of_test | {
        name.replace("-", "_") for name in of_test
    }
    assert {f"{name}={module}:main" for name, module in COMMANDS.items()} <= set(points.replace(" ", "").splitlines())


def test_the_source_archive_holds_what_is_needed_to_build_and_test(distributions: Path) -> None:
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {"setup.py", "pyproject.toml", "requirements.txt", "docs/configuration.md", "tests/conftest.py"}
    expected |= {"LICENSE"}
    expected |= {"tests/data/seed-config.toml", "tests/vectors/levels.jsonl", "greenagent/py.typed"}
    expected |= {f"etc/{source}" for source in SERVICE_FILES.values()}
    assert expected <= names
    assert not [name for name in names if "__pycache__" in name]


def test_an_installed_package_gives_the_commands_and_a_configuration(wheel: Path, tmp_path: Path) -> None:
    run(
        *(sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-warn-script-location"),
        *("--ignore-installed", "--disable-pip-version-check", "--prefix", tmp_path / "prefix", wheel),
        folder=tmp_path,
    )
    scripts = {path.name for path in (tmp_path / "prefix" / "bin").iterdir()}
    assert set(COMMANDS) <= scripts
    share = tmp_path / "prefix" / "share" / "greenagent"
    assert {str(path.relative_to(share)) for path in share.rglob("*") if path.is_file()} == set(SERVICE_FILES)
    assert (share / "init.d" / "greenagent").stat().st_mode & 0o111
    (packages,) = (tmp_path / "prefix").glob("lib/python*/site-packages")
    program = (
        f"import sys; sys.path.insert(0, {str(packages)!r})\n"
        "import greenagent.settings as settings\n"
        f"assert settings.__file__.startswith({str(packages)!r}), settings.__file__\n"
        f"print(settings.load_settings({str(share / 'greenagent.toml')!r}).settings.main.gid)\n"
    )
    adapted = (share / "greenagent.toml").read_text().replace("#url", "url")
    (share / "greenagent.toml").write_text(adapted)
    assert run(sys.executable, "-I", "-c", program, folder=tmp_path).strip() == "1"


@pytest.mark.parametrize("module", COMMANDS.values())
def test_each_command_has_its_function(module: str) -> None:
    assert callable(import_module(module).main)


def test_nothing_tells_people_to_install_it_from_an_index_where_it_is_not() -> None:
    told = re.compile(r"install (-\S+ )*['\"]?greenagent(?:\[| *['\"`\n)])")
    texts = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("etc/**/*"), *ROOT.glob("greenagent/**/*.py")]
    texts += [ROOT / "setup.py", *ROOT.glob("scripts/*")]
    assert not [path for path in texts if path.is_file() and told.search(path.read_text("utf-8"))]
