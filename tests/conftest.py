"""Every test runs as the agent does: patched first, before anything else is imported."""

from greenagent.runtime.patch import patch

patch()

import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterator  # noqa: E402

import pytest  # noqa: E402

# Without bytecode every program that a test starts would compile the whole package: 0.2 s of processor time an agent.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.pop("PYTHONUNBUFFERED", None)  # programs have buffers, as most people's have

# A shell that runs the tests in the background has them ignore SIGINT, and what they start would inherit that.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

PROXY_AND_CA = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True, scope="session")
def _plain_environment() -> Iterator[None]:
    """No proxy, CA bundle or GREENAGENT setting of this machine reaches a test, nor what tests of a module share."""
    with pytest.MonkeyPatch.context() as patched:
        for name in list(os.environ):
            if name in PROXY_AND_CA or name.lower() in PROXY_AND_CA or name.startswith("GREENAGENT_"):
                patched.delenv(name)
        yield


def needs(program: str) -> str:
    """The path of a system program a test needs; skips loudly without it, fails under CI=true."""
    import shutil

    path = shutil.which(program)
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{program} is needed under CI=true and is not installed")
        pytest.skip(f"SKIPPED FOR LACK OF {program}: install it to run this test")
    return path
