"""What an agent serves on ``[metrics] listen``."""

from __future__ import annotations

import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families


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
