"""What is logged about a controller in trouble."""

from __future__ import annotations

from greenagent.uplink import health as health_module
from greenagent.uplink.health import ControllerHealth
from tests.support.agent_logs import RecordedLog


class Said:
    def __init__(self, url: str = "http://somewhere") -> None:
        self._log = RecordedLog()
        self.health = ControllerHealth("main", url, self._log)

    @property
    def lines(self) -> list[str]:
        return self._log.lines


def test_a_reason_is_said_once_for_all_parts_and_again_when_it_changes():
    said = Said()
    for part in ("poll", "results", "poll", "logs"):
        said.health.failed(part, "it refuses the connection")
    assert said.lines == ["controller main (http://somewhere): poll: it refuses the connection; will be tried again"]
    said.health.failed("poll", "it does not let us in (status 403)")
    assert len(said.lines) == 2
    for part in ("poll", "results"):
        said.health.worked(part)
    assert len(said.lines) == 2, "the logs are still in trouble"
    said.health.worked("logs")
    assert said.lines[2] == "controller main (http://somewhere) answers again"
    said.health.worked("logs")
    assert len(said.lines) == 3


def test_a_controller_that_flaps_does_not_fill_the_log(monkeypatch):
    said = Said()
    for _ in range(100):
        said.health.failed("poll", "it answers with status 503")
        said.health.worked("poll")
    assert len(said.lines) == 2
    monkeypatch.setattr(health_module, "REPEAT_AFTER", 0.0)
    said.health.failed("poll", "it answers with status 503")
    assert len(said.lines) == 3


def test_a_password_in_the_address_is_not_said():
    said = Said("https://me:secret@somewhere:1/x")
    said.health.failed("poll", "it refuses the connection")
    assert "secret" not in said.lines[0]
    assert "https://***@somewhere:1/x" in said.lines[0]
