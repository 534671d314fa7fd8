"""What follows a run (protocol 5.3, 5.4; design, section 5 "Ending")."""

import pytest

from greenagent.jobs.lifecycle import LONG_LIFE, Decision, Next, RestartPolicy
from greenagent.values import states


def test_a_plain_job_ends_and_reports() -> None:
    assert RestartPolicy(0, 0).after(states.SUCCESS, 1, False) == Decision(True, Next.END)
    assert RestartPolicy(0, 0).after(states.ERROR, 1, False) == Decision(True, Next.END)


def test_max_restart_means_that_many_restarts_and_one_report() -> None:
    """Defect 14 of the original: N meant N runs in total."""
    policy = RestartPolicy(3, 0, jitter=lambda: 1.0)
    decisions = [policy.after(states.ERROR, 1, False) for _ in range(4)]
    assert [decision.next for decision in decisions] == [Next.RESTART] * 3 + [Next.END]
    assert [decision.report for decision in decisions] == [False, False, False, True]
    assert [decision.gave_up for decision in decisions] == [False, False, False, True]


def test_delays_grow_from_one_second_to_thirty() -> None:
    policy = RestartPolicy(100, 0, jitter=lambda: 1.0)
    delays = [policy.after(states.ERROR, 1, False).delay for _ in range(10)]
    assert delays[0] == 1.0
    assert delays == sorted(delays)
    assert delays[-1] == 30.0


def test_a_long_life_forgives_the_restarts_before_it() -> None:
    """Defect 13 of the original: the five minutes were 83 hours."""
    policy = RestartPolicy(1, 0)
    assert policy.after(states.ERROR, 1, False).next is Next.RESTART
    assert policy.after(states.ERROR, LONG_LIFE + 1, False).next is Next.RESTART
    assert policy.after(states.ERROR, 1, False).next is Next.END


def test_what_must_always_run_is_restarted_without_limit_after_pauses_that_grow_to_thirty_seconds() -> None:
    policy = RestartPolicy(0, 0, jitter=lambda: 1.0, always=True)
    decisions = [policy.after(state, 1, True) for state in (states.SUCCESS, states.ERROR, states.KILLED) * 10]
    assert {(decision.next, decision.report, decision.gave_up) for decision in decisions} == {
        (Next.RESTART, False, False)
    }
    delays = [decision.delay for decision in decisions]
    assert delays == sorted(delays)
    assert (delays[:3], delays[-1]) == ([1.0, 2.0, 4.0], 30.0)
    assert policy.after(states.SUCCESS, LONG_LIFE + 1, False).delay == 1.0
    assert policy.after(states.ERROR, 0, False, can_restart=False) == Decision(True, Next.END)


def test_a_timeout_counts_as_a_failure() -> None:
    assert RestartPolicy(1, 0).after(states.TIMEOUT, 1, False).next is Next.RESTART


def test_a_missing_executable_is_not_restarted() -> None:
    assert RestartPolicy(5, 0).after(states.ERROR, 0, False, can_restart=False) == Decision(True, Next.END)


@pytest.mark.parametrize(
    ("state", "has_result", "reported"),
    [(states.SUCCESS, False, False), (states.SUCCESS, True, True), (states.ERROR, False, True)],
)
def test_recurrence_reports_failures_and_results(state: str, has_result: bool, reported: bool) -> None:
    assert RestartPolicy(0, 7).after(state, 1, has_result) == Decision(reported, Next.RECUR, 7)


def test_a_failing_recurring_job_is_restarted_first_then_the_period_goes_on() -> None:
    policy = RestartPolicy(1, 7)
    assert policy.after(states.ERROR, 1, False).next is Next.RESTART
    assert policy.after(states.ERROR, 1, False) == Decision(True, Next.RECUR, 7, gave_up=True)
    assert policy.after(states.ERROR, 1, False).next is Next.RESTART
