"""Settings that are read again while the agent runs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import gevent

from tests.support.inside import InsideAgent
from tests.support.recording_controller import RecordingController
from tests.support.waiting import wait_until


def test_two_reloads_at_once_are_applied_one_after_the_other(tmp_path: Path) -> None:
    """The first ended last and took its own controllers for those that are connected."""
    with ExitStack() as stack:
        first, second, third = (stack.enter_context(RecordingController()) for _ in range(3))
        inside = stack.enter_context(InsideAgent(tmp_path, {"main": first.url}))
        first.wait_for_poll()
        to_second, to_third = (inside.settings({"main": one.url}) for one in (second, third))
        gevent.joinall([gevent.spawn(inside.agent.reload, new) for new in (to_second, to_third)], raise_error=True)
        third.wait_for_poll()
        polls = len(second.polls)
        inside.agent.reload(to_second)
        wait_until(lambda: len(second.polls) > polls, what="a poll of the controller configured last")
