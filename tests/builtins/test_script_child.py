"""Jumpscripts run in a process of their own and tell their result or their error (protocol 10.4)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from greenagent.builtins import script_child

PROGRAM = Path(script_child.__file__)


def run(task: object, cwd: Path | None = None) -> tuple[int, list[str], str]:
    """Exit code, lines of stdout, stderr; isolated (-I -S) so that only the standard library can be there."""
    text = task if isinstance(task, bytes) else json.dumps(task).encode()
    done = subprocess.run(
        [sys.executable, "-S", str(PROGRAM)], input=text, capture_output=True, timeout=120, cwd=cwd, check=False
    )
    return done.returncode, done.stdout.decode().splitlines(), done.stderr.decode()


def error_of(task: object) -> dict:
    code, lines, _ = run(task)
    assert code == 1
    assert lines[-1].startswith("9::")
    return json.loads(lines[-1][3:])


def test_the_value_of_action_is_the_result(tmp_path: Path) -> None:
    script = tmp_path / "add.py"
    script.write_text("descr = 'adds'\ndef action(first, second=10):\n    return {'sum': first + second}\n")
    assert run({"path": str(script), "args": {"first": 1}}) == (0, ['20:::{"sum": 11}', ":::"], "")


def test_a_pipe_in_the_place_of_a_script_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "script.py")
    assert error_of({"path": str(tmp_path / "script.py")})["message"] == f"{tmp_path}/script.py is no plain file"
    assert error_of({"path": "/dev/null"})["message"] == "/dev/null is no plain file"


def test_a_text_runs_without_a_file_and_without_arguments() -> None:
    assert run({"content": "def action():\n    return None\n"}) == (0, ["20:::null", ":::"], "")


def test_colons_and_newlines_in_a_result_cannot_end_it() -> None:
    value = "one\n:::\n20::two"
    code, lines, _ = run({"content": "def action(value):\n    return value\n", "args": {"value": value}})
    assert code == 0
    assert len(lines) == 2
    assert json.loads(lines[0][5:]) == value
    assert lines[1] == ":::"


def test_output_of_the_script_goes_through_and_an_open_line_is_ended() -> None:
    content = (
        "import sys\nprint('before')\ndef action():\n    print('7::careful')\n    print('open', end='')\n    return 1\n"
    )
    assert run({"content": content})[1] == ["before", "7::careful", "open", "20:::1", ":::"]


def test_a_script_that_replaces_its_output_still_answers() -> None:
    content = "import sys, io\ndef action():\n    sys.stdout = io.StringIO()\n    print('lost')\n    return 2\n"
    assert run({"content": content})[1] == ["20:::2", ":::"]


def test_an_exception_is_told_with_the_scripts_own_frames(tmp_path: Path) -> None:
    script = tmp_path / "bad.py"
    script.write_text("def action():\n    raise KeyError('which')\n")
    error = error_of({"path": str(script)})
    assert error["message"] == "'which'"
    assert error["type"] == "KeyError"
    assert f'"{script}", line 2, in action' in error["traceback"]
    assert "script_child" not in error["traceback"]


def test_the_traceback_of_a_text_shows_its_lines() -> None:
    error = error_of({"content": "def action():\n    return 1 / 0  # here\n"})
    assert "return 1 / 0  # here" in error["traceback"]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"content": "def action(:\n"}, "invalid syntax"),
        ({"content": "x = 1\n"}, "no function named action"),
        ({"content": "def action(a):\n    return a\n"}, "missing 1 required"),
        ({"content": "def action():\n    return 1\n", "args": {"b": 1}}, "unexpected keyword"),
        ({"content": "def action():\n    return object()\n"}, "not JSON"),
        ({"content": "def action():\n    return float('nan')\n"}, "not JSON"),
        ({"content": "def action():\n    x = []\n    x.append(x)\n    return x\n"}, "not JSON"),
        ({"content": "def action():\n    return 1\n", "args": [1]}, "takes 0 positional arguments but 1 was given"),
        ({"path": "/nonexistent/x.py"}, "/nonexistent/x.py: No such file"),
        ({"args": {}}, "neither path nor content"),
        (b"{", "the input is not JSON"),
        (b"[]", "neither path nor content"),
        (b"\xff", "the input is not JSON"),
        ({"content": "def action():\n    raise KeyboardInterrupt\n"}, "KeyboardInterrupt"),
    ],
)
def test_what_cannot_run_is_an_error_that_says_why(task: object, words: str) -> None:
    assert words in error_of(task)["message"]


@pytest.mark.parametrize("value", [5, "text", [1, {"a": 2}], False, {"no": 1, "name": 2}, {"not a name": 1}])
def test_what_are_no_names_of_action_is_its_one_argument(value: object) -> None:
    code, lines, _ = run({"content": "def action(data):\n    return data\n", "args": value})
    assert (code, json.loads(lines[0][5:])) == (0, value)


def test_a_type_error_of_the_script_itself_is_told_and_it_runs_once() -> None:
    content = "def action(data=None, **more):\n    print('ran')\n    return 1 + 'x'\n"
    code, lines, _ = run({"content": content, "args": {"a": 1}})
    assert (code, lines[:-1]) == (1, ["ran"])
    assert "unsupported operand" in json.loads(lines[-1][3:])["message"]


def test_an_exit_of_the_script_is_its_own() -> None:
    code, lines, _ = run({"content": "import sys\ndef action():\n    sys.exit(3)\n"})
    assert (code, lines) == (3, [])


def test_neighbours_of_the_script_can_be_imported_and_ours_cannot(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("VALUE = 5\n")
    script = tmp_path / "main.py"
    script.write_text(
        "import neighbour\n"
        "def action():\n"
        "    try:\n"
        "        import system_os\n"
        "    except ImportError:\n"
        "        return neighbour.VALUE\n"
    )
    assert run({"path": "main.py"}, cwd=tmp_path)[1][0] == "20:::5"


def test_it_imports_the_standard_library_only() -> None:
    code, lines, _ = run({"content": "import sys\ndef action():\n    return sorted(sys.modules)\n"})
    assert code == 0
    loaded = {name.partition(".")[0] for name in json.loads(lines[0][5:])}
    assert loaded - set(sys.stdlib_module_names) - {"__main__", "jumpscript"} <= {"sitecustomize", "usercustomize"}
