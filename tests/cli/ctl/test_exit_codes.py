"""The exit codes of ``greenagent-ctl run``, each outcome once, and that its page has them."""

from __future__ import annotations

import re
import signal
from typing import Any

import pytest

from greenagent.cli.ctl import exit_codes
from greenagent.cli.ctl.exit_codes import exit_code
from tests.support.ctl import ctl, on_node, result_of
from tests.support.programs import ROOT

OUTCOMES: list[tuple[dict[str, Any], int]] = [
    ({"state": "SUCCESS", "exit_code": 0}, 0),
    ({"state": "SUCCESS"}, 0),
    ({"state": "ERROR", "exit_code": 3}, 3),
    ({"state": "ERROR", "exit_code": 126}, 126),
    ({"state": "ERROR", "exit_code": 256}, 125),
    ({"state": "ERROR", "exit_code": 0}, 125),
    ({"state": "TIMEOUT", "exit_code": None, "signal": "SIGTERM"}, 124),
    ({"state": "TIMEOUT", "exit_code": 7}, 124),
    ({"state": "KILLED", "exit_code": 0}, 137),
    ({"state": "KILLED", "exit_code": None, "signal": "SIGTERM"}, 137),
    ({"state": "ERROR", "exit_code": None, "signal": "SIGSEGV"}, 128 + signal.SIGSEGV),
    ({"state": "ERROR", "exit_code": None, "signal": "SIGRTMIN+3"}, 128 + signal.SIGRTMIN + 3),
    ({"state": "ERROR", "exit_code": None, "signal": "nonsense"}, 125),
    ({"state": "ERROR", "exit_code": None, "reason": "not_found"}, 127),
    ({"state": "UNKNOWN_CMD", "exit_code": None, "reason": "not_found"}, 127),
    ({"state": "ERROR", "exit_code": None, "reason": "cannot_start"}, 126),
    ({"state": "ERROR", "exit_code": None, "reason": "of a later version"}, 125),
    ({"state": "ERROR", "exit_code": None, "data": "the agent was started again"}, 125),
    ({"state": "DUPILICATE_ID", "exit_code": None}, 125),
    ({"state": "ERROR", "delivered": False}, 125),
    ({"state": "ERROR"}, 125),  # of an original agent, which tells no reason
    ({"state": "UNKNOWN_CMD"}, 125),
]


@pytest.mark.parametrize(("result", "code"), OUTCOMES, ids=str)
def test_each_outcome_has_its_exit_code(result: dict[str, Any], code: int) -> None:
    assert exit_code(result) == code


@pytest.mark.parametrize(
    ("result", "code", "said"),
    [
        ({"state": "TIMEOUT", "exit_code": None, "signal": "SIGTERM"}, 124, "TIMEOUT: by SIGTERM"),
        ({"state": "ERROR", "exit_code": None, "data": "No such file", "reason": "not_found"}, 127, "ERROR: No such"),
    ],
)
def test_an_outcome_without_output_is_said(controller, answering, result, code, said) -> None:
    answering(controller, result_of(**result))
    done = ctl(controller.url, *on_node("--", "true"))
    assert (done.code, done.out) == (code, "")
    assert said in done.err


def test_the_page_has_every_exit_code() -> None:
    page = (ROOT / "docs/controller.md").read_text()
    table = page.partition("| Exit code | Meaning |")[2].partition("\n\n")[0]
    given = {value for name, value in vars(exit_codes).items() if name.isupper() and isinstance(value, int)}
    given -= {exit_codes.NOT_SO, exit_codes._HIGHEST}
    told = {int(number) for cell in re.findall(r"^\| ([^|]*) \|", table, re.M) for number in re.findall(r"\d+", cell)}
    assert told == given - {exit_codes.KILLED} | {130}
    assert str(exit_codes.KILLED) in table
