"""What an agent serves on ``[metrics] listen``."""

from __future__ import annotations

import random
import socket
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def free_port() -> int:
    """A loopback port nobody listens on just now: below those that the system gives to whoever asks for any."""
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", random.SystemRandom().randrange(10_000, 32_000)))
            except OSError:
                continue  # somebody has it
            return int(probe.getsockname()[1])


def listening(port: int) -> str:
    """The section of the configuration."""
    return f'[metrics]\nlisten = "127.0.0.1:{port}"\n'


def get(port: int, path: str) -> tuple[int, str]:
    """The code and the text of an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def samples(port: int) -> dict[tuple, float]:
    """Every sample of /metrics by its name and labels."""
    code, text = get(port, "/metrics")
    assert code == 200, text
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
