"""Ending another greenlet's wait."""

from __future__ import annotations

import gevent
from gevent.event import Event

from greenagent.runtime.greenlets import Interrupted, Interruptible


def waiter(region: Interruptible, event: Event) -> str:
    """Waits in the region, then elsewhere."""
    try:
        with region:
            event.wait()
    except Interrupted:
        return "interrupted"
    gevent.sleep(0.02)
    return "came through"


def test_a_wait_is_ended():
    region = Interruptible()
    greenlet = gevent.spawn(waiter, region, Event())
    gevent.sleep(0)
    assert region.interrupt()
    assert not region.interrupt(), "once is enough"
    assert greenlet.get(timeout=60) == "interrupted"
    assert not region.interrupt(), "nobody is there any more"


def test_an_interrupt_that_comes_too_late_does_not_hit_what_follows():
    region, event = Interruptible(), Event()
    greenlet = gevent.spawn(waiter, region, event)
    gevent.sleep(0)
    event.set()
    assert region.interrupt()
    assert greenlet.get(timeout=60) == "came through"


def test_a_region_can_be_used_again():
    region = Interruptible()
    for _ in range(3):
        greenlet = gevent.spawn(waiter, region, Event())
        gevent.sleep(0)
        region.interrupt()
        assert greenlet.get(timeout=60) == "interrupted"
