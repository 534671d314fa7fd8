"""A controller for each test that asks for one; in the contract's modules with either backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from greenagent.runtime import reading_process
from tests.support.local_controller import Agent, LocalController, controller, make_controller  # noqa: F401
from tests.support.redis_server import RedisServer

CONTRACT: Final = (
    "test_acknowledgement",
    "test_api",
    "test_batches",
    "test_dispatch",
    "test_endpoints",
    "test_expiry",
    "test_odd_commands",
    "test_open_texts",
    "test_original_agents",
    "test_results",
    "test_schedule_api",
    "test_uploads",
)
"""Modules whose tests hold for either backend, unless a test is marked ``local``."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    is_common = metafunc.module.__name__.rpartition(".")[2] in CONTRACT
    if "backend" in metafunc.fixturenames:
        is_local = any(metafunc.definition.iter_markers("local"))
        backends = ["local", "redis"] if is_common and not is_local else ["local"]
        metafunc.parametrize("backend", backends, indirect=True)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--appendonly", "no")
    yield server
    server.stop()


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """See ``tests.support.local_controller.backend``."""
    if request.param == "local":
        return ""
    server: Any = request.getfixturevalue("redis_server")
    server.client.flushall()
    url: str = server.url
    return url


@pytest.fixture(autouse=True)
def _patient_reading() -> Iterator[None]:
    """A busy machine may take longer to start the process that reads large bodies than any honest body takes."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reading_process, "SECONDS", 60.0)
        yield


@pytest.fixture
def agent(controller: LocalController) -> Agent:  # noqa: F811
    return Agent(controller)
