"""What the parts of a command mean, and why one is refused (protocol 2)."""

import json
from typing import Any

import pytest

from greenagent.values.arguments import RunArguments, parse_arguments
from greenagent.values.command import Command, decode_command, parse_command, without_queue
from greenagent.values.errors import CommandError, SignalError
from greenagent.values.json_shape import SHORT
from greenagent.values.signals import parse_signal

LENIENT = {
    "a number with a fraction": ("max_time", 3.9, 3),
    "less than one": ("max_time", 0.5, 0),
    "a number below -1": ("max_time", -2, 0),
    "remembered": ("max_time", -1, -1),
    "a negative count": ("max_restart", -1, 0),
    "a text": ("recurring_period", "5", 0),
    "a flag": ("stats_interval", True, 0),
    "a number past 32 bits": ("max_time", 2**40, 2**31 - 1),
    "endless": ("max_time", float("inf"), 0),
    "absent": ("max_time", None, 0),
}


@pytest.mark.parametrize(("key", "given", "meant"), LENIENT.values(), ids=LENIENT.keys())
def test_odd_numbers_count_as_the_original_takes_them(key: str, given: Any, meant: int) -> None:
    warnings: list[str] = []
    assert getattr(parse_arguments({key: given}, warnings.append), key) == meant
    taken = given is None or meant != 0
    assert [warning.split(" ")[0] for warning in warnings] == ([] if taken else [f"args.{key}"])


def test_a_negative_number_of_restarts_is_said_with_what_was_meant() -> None:
    warnings: list[str] = []
    parse_arguments({"max_restart": -1}, warnings.append)
    assert warnings == ["args.max_restart is negative and counts as 0; restart = 'always' has no limit"]


def test_beside_restart_always_no_limit_and_no_period_counts() -> None:
    warnings: list[str] = []
    arguments = parse_arguments({"restart": "always", "max_restart": 3, "recurring_period": 5}, warnings.append)
    assert (arguments.max_restart, arguments.recurring_period, arguments.remembered) == (0, 0, True)
    assert warnings == [
        "args.max_restart counts for nothing beside restart = 'always'",
        "args.recurring_period counts for nothing beside restart = 'always'",
    ]


def test_run_arguments_have_their_types() -> None:
    arguments = parse_arguments(
        {
            "name": "n",
            "domain": 7,
            "args": ["a", 1, True, None, 2.0],
            "env": ["A=1=2", "B="],
            "loglevels": "1-3",
            "log_flush": 2,
            "leave_children": True,
            "max_time": 5,
        }
    )
    assert arguments.domain == "7"
    assert arguments.args == ("a", "1", "true", "", "2")
    assert arguments.env == (("A", "1=2"), ("B", ""))
    assert arguments.loglevels is not None
    assert 2 in arguments.loglevels
    assert arguments.loglevels_db is None
    assert (arguments.log_flush, arguments.leave_children, arguments.time_limit) == (2.0, True, 5)
    assert parse_arguments({"env": {"A": 1}}).env == (("A", "1"),)
    assert parse_arguments(None) == RunArguments()


def test_a_result_echoes_known_arguments_and_fills_in_the_interval() -> None:
    received = {"name": "n", "env": ["A=secret"], "log_flush": 1, "other": 3, "args": ["x"]}
    assert parse_arguments(received).echo(60) == {"name": "n", "args": ["x"], "stats_interval": 60}
    assert parse_arguments({"stats_interval": 5}).echo(60) == {"stats_interval": 5}


REFUSED = {
    "args of text": ({"args": "x"}, "'args' must be an object, not text"),
    "args.args of text": ({"args": {"args": "x"}}, "args.args must be a list, not text"),
    "NUL": ({"args": {"domain": "a\0"}}, "args.domain holds a NUL character"),
    "env name": ({"args": {"env": {"": "x"}}}, "args.env holds the impossible name or value ''"),
    "levels": ({"args": {"loglevels": "x"}}, "args.loglevels: 'x' is not a level, a range of levels or *"),
    "cmd": ({"cmd": 3}, "'cmd' must be text, not a number"),
    "gid": ({"gid": "1"}, "'gid' must be a whole number, not text"),
    "roles": ({"roles": ["a", 1]}, "'roles' must be a list of texts"),
    "fanout": ({"fanout": 1}, "'fanout' must be true or false, not a number"),
    "data": ({"data": {}}, "'data' must be text, not an object"),
    "reserved id": ({"id": "agent"}, "the id 'agent' is reserved for the agent's own log"),
    "long id": ({"id": "a" * 201}, "the id is longer than 200 characters"),
    "control character in the id": ({"id": "a\n"}, "the id holds control characters"),
}


@pytest.mark.parametrize(("members", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_command_is_refused_with_the_reason_under_its_id(members: dict[str, Any], reason: str) -> None:
    command = {"id": "job", "cmd": "ping", **members}
    with pytest.raises(CommandError) as caught:
        parse_command(command)
    assert caught.value.reason == reason
    assert caught.value.command_id == command["id"]
    assert caught.value.name == (command["cmd"] if isinstance(command["cmd"], str) else "")


def test_what_is_no_command_has_no_id() -> None:
    for received in ([], {"cmd": "ping"}, {"id": None}, {"id": {}}, {"id": ""}):
        with pytest.raises(CommandError) as caught:
            parse_command(received)
        assert not caught.value.command_id


def test_ids_and_names_as_originals_write_them() -> None:
    assert parse_command({"id": 17, "name": "ping", "role": "web"}) == Command(
        "17", "ping", roles=("web",), received={"id": 17, "name": "ping", "role": "web"}
    )


def test_equal_objects_are_one_command_and_true_is_not_one() -> None:
    one = decode_command('{"id": "a", "cmd": "x", "args": {"max_time": 1, "queue": "q"}}')
    same = decode_command(b'{"cmd": "x", "args": {"queue": "q", "max_time": 1}, "id": "a"}')
    other = decode_command('{"id": "a", "cmd": "x", "args": {"max_time": true, "queue": "q"}}')
    assert one.is_same_as(same)
    assert not one.is_same_as(other)
    assert without_queue(one).arguments.queue == ""


def test_the_id_of_a_command_that_cannot_be_read_is_found_before_the_fault() -> None:
    broken = json.dumps({"cmd": "x", "deep": {"id": "inner"}, "id": "outer"})[:-1] + ', "data": "'
    with pytest.raises(CommandError) as caught:
        decode_command(broken)
    assert caught.value.command_id == "outer"
    assert caught.value.reason.startswith("the command is not JSON: ")


def test_signals_have_names_and_numbers() -> None:
    assert [parse_signal(value) for value in ("TERM", "sigterm", "15", 15, 40)] == [15, 15, 15, 15, 40]
    for value in ("NOPE", 0, 65, -1, True, None, 1.0, "9" * 5000):
        with pytest.raises(SignalError):
            parse_signal(value)


@pytest.mark.parametrize(
    "text",
    [
        '{"id": "a", "cmd": "execute", "args": {"name": "x", "env": {"A": "\\u00e4"}}, "data": "ä"}',
        '{"cmd": "x", "data": NaN, "id": "a"}',
        '{"cmd": "x", "args": {"n": [1e400, 1.5]}, "id": "a"}',
        '{"id": "a\\ud800", "cmd": "x", "args": {"args": ["\\udfff", "\\ud83d\\ude00"]}}',
        '{"id": "a", "cmd": "x", "id": "b"}',
        '{"id": "a", "cmd": "x", "args": ' + "[" * 300 + "]" * 300 + "}",
        "[1]",
        '\ufeff{"id": "a"}',
        '{"id": "a", "cmd"',
        '{"id": "a", "cmd": "x", "args": {"n": ' + "9" * 5000 + "}}",
    ],
)
def test_a_short_command_means_the_same_as_a_long_one(text: str) -> None:
    """A short one is read, and kept, as it comes; blanks behind it make it a long one."""
    found = []
    for body in (text, text + " " * SHORT):
        try:
            command = decode_command(body.encode())
        except CommandError as error:
            found.append((error.reason.partition(": ")[0], error.command_id, error.name))
        else:
            assert not command.text or json.loads(command.text) == command.received
            found.append(command)
    assert found[0] == found[1]
