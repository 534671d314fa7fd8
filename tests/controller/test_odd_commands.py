"""Commands and answers that are odd but allowed, or that no agent can take."""

from __future__ import annotations

import pytest

from tests.controller.test_results import start


@pytest.mark.parametrize(("value", "shown"), [(7, "7"), (True, "true"), (1.0, "1"), ({"a": 1}, '{"a": 1}'), (None, "")])
def test_a_domain_that_is_no_text_is_shown_as_its_text(controller, agent, value, shown) -> None:
    start(controller, agent, args={"name": value, "domain": value})
    [job] = controller.get("jobs")["jobs"]
    assert (job["name"], job["domain"]) == (shown, shown)


@pytest.mark.parametrize("period", [0.5, 0, -5, "60", True, 0.999])
def test_a_period_that_is_none_to_the_agent_makes_no_recurring_job(controller, agent, period) -> None:
    start(controller, agent, args={"recurring_period": period})
    agent.finish("j")
    job = controller.get("jobs/j")
    assert (job["state"], job["recurring"]) == ("SUCCESS", False)


@pytest.mark.parametrize("period", [1, 1.5, 60, 10**30])
def test_a_period_of_a_second_or_more_makes_a_recurring_job(controller, agent, period) -> None:
    start(controller, agent, args={"recurring_period": period})
    agent.finish("j")
    job = controller.get("jobs/j")
    assert (job["state"], job["recurring"]) == ("RUNNING", True)
