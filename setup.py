"""Packaging: ``pip install .`` gives the commands, the service files go to share/greenagent."""

import re
import shutil
import sys
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036 - before pip looks for versions of all that is needed that would fit
    raise SystemExit("greenagent needs Python 3.10 or newer, this is %d.%d" % sys.version_info[:2])  # noqa: UP031

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent


class BuildAnew(build_py):
    """Takes nothing into the package that an earlier build has left in ``build/lib``: its source may be gone."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib) / "greenagent", ignore_errors=True)
        super().run()


def version() -> str:
    """The version as the package states it, read without importing the package."""
    found = re.search(r'^__version__ = "(.+)"$', (HERE / "greenagent" / "__init__.py").read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit("greenagent/__init__.py states no __version__")
    return found.group(1)


def requirements() -> list[str]:
    """What the agent needs to run."""
    lines = (HERE / "requirements.txt").read_text("utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def long_description() -> str:
    """The README; a source tree without one still builds."""
    readme = HERE / "README.md"
    return readme.read_text("utf-8") if readme.exists() else ""


CONTROLLER = ["cronsim>=2.7", "falcon>=3.1"]
METRICS = ["prometheus_client>=0.16"]
REDIS = ["redis>=5.0"]
TOMLI = ["tomli>=1.1; python_version < '3.11'"]
TEST = [
    *CONTROLLER,
    *METRICS,
    *REDIS,
    *TOMLI,
    "build>=1.0",
    "hypothesis>=6.80",
    "mypy>=1.10",
    "pytest>=8.0",
    "pytest-timeout>=2.2",
    "ruff>=0.6",
    "setuptools>=64",
    "trustme>=1.1",
    "statsd>=4",
    "types-psutil",
    "types-requests",
    "types-toml",
    "wheel>=0.40",
]

setup(
    name="greenagent",
    version=version(),
    description="A node agent that runs the jobs its controllers hand out and loses nothing of them",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    author="The greenagent authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="agent job runner process manager logs",
    python_requires=">=3.10",
    packages=find_packages(include=["greenagent", "greenagent.*"]),
    package_data={"greenagent": ["py.typed", "script.sh"]},
    data_files=[
        ("share/greenagent", ["etc/greenagent.toml"]),
        ("share/greenagent/init.d", ["etc/init.d/greenagent"]),
        ("share/greenagent/default", ["etc/default/greenagent"]),
        ("share/greenagent/logrotate.d", ["etc/logrotate.d/greenagent"]),
        ("share/greenagent/systemd", ["etc/systemd/greenagent.service"]),
    ],
    cmdclass={"build_py": BuildAnew},
    install_requires=requirements(),
    extras_require={
        "controller": CONTROLLER,
        "redis": [*CONTROLLER, *REDIS],
        "metrics": METRICS,
        "tomli": TOMLI,
        "test": TEST,
    },
    entry_points={
        "console_scripts": [
            "greenagent=greenagent.cli.agent.__main__:main",
            "greenagent-logs=greenagent.cli.logs.__main__:main",
            "greenagent-ctl=greenagent.cli.ctl.__main__:main",
            "greenagent-controller=greenagent.cli.controller:main",
        ]
    },
    classifiers=[
        "Environment :: No Input/Output (Daemon)",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: System :: Systems Administration",
        "Typing :: Typed",
    ],
    zip_safe=False,
)
