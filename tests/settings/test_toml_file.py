"""The TOML reader: what it understands, and that the toml library's defects cannot reach a setting."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import strategies as st

from greenagent.settings import SettingsError, toml_file
from greenagent.settings.toml_file import MAXIMUM_SIZE, read_toml
from tests.support.properties import given, settings


def read(folder: Path, text: str | bytes) -> dict[str, object]:
    path = folder / "a.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_toml(path)[0]


UNDERSTOOD = {
    "hexadecimal": ("a = 0xFF", {"a": 255}),
    "octal and binary": ("a = 0o17\nb = 0b101", {"a": 15, "b": 5}),
    "underscores": ("a = 1_000\nb = [1_0, 0x1_0]", {"a": 1000, "b": [10, 16]}),
    "byte order mark": ("\ufeffa = 1", {"a": 1}),
    "carriage returns": ("[s]\r\na = 1\r\nb = '''\r\nx\r\ny'''\r\n", {"s": {"a": 1, "b": "x\ny"}}),
    "comment signs in texts": ("a = \"#1\" # two\nb = '#['", {"a": "#1", "b": "#["}),
    "commas and brackets in lists": ("a = ['],[', \"},{\", '#']", {"a": ["],[", "},{", "#"]}),
    "list over lines": ("a = [\n 1, # one\n\n 2,\n]\nb = 1", {"a": [1, 2], "b": 1}),
    "nested lists": ("a = [[1, 2], [], [[3]]]", {"a": [[1, 2], [], [[3]]]}),
    "inline table": ("a = {b = 1, c.d = 'x', e = {}}", {"a": {"b": 1, "c": {"d": "x"}, "e": {}}}),
    "table in a list": ("a = [{b = 1}, {b = [2]}]", {"a": [{"b": 1}, {"b": [2]}]}),
    "quoted keys": ('"a b" = 1\n\'c.d\'.x = 2\n["e#f"]\ng=3', {"a b": 1, "c.d": {"x": 2}, "e#f": {"g": 3}}),
    "lists of tables": ("[[a]]\nb = 1\n[[a]]\nb = 2", {"a": [{"b": 1}, {"b": 2}]}),
    "escapes": (r'a = "q\t\u00e9\U0001F600\\\"x"', {"a": 'q\té\U0001f600\\"x'}),
    "no escapes in literals": (r"a = '\n\u00'", {"a": r"\n\u00"}),
    "folded lines": ('a = """one \\\n\n   two"""', {"a": "one two"}),
    "quotes before the end": ('a = """x"""""', {"a": 'x""'}),
    "indented tables": ("  [a]\n    b = 1\n  [a.c]\n\td = 2", {"a": {"b": 1, "c": {"d": 2}}}),
    "sub-table first": ("[a.b]\nx = 1\n[a]\ny = 2", {"a": {"b": {"x": 1}, "y": 2}}),
    "same name at two depths": (
        "[a.b]\nx = 1\n[b]\ny = 2\n[c.b]\nz = 3",
        {
            "a": {"b": {"x": 1}},
            "b": {"y": 2},
            "c": {"b": {"z": 3}},
        },
    ),
    "numbers": (
        "a = -0.5\nb = 1e3\nc = +7\nd = 6.0E-2\ne = 1e300",
        {"a": -0.5, "b": 1000.0, "c": 7, "d": 0.06, "e": 1e300},
    ),
    "empty file": ("", {}),
    "comments alone": ("# nothing\n\n", {}),
}


@pytest.mark.parametrize(("text", "expected"), UNDERSTOOD.values(), ids=UNDERSTOOD.keys())
def test_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: object) -> None:
    assert read(tmp_path, text) == expected
    monkeypatch.setattr(toml_file, "SECOND_PARSER", None)  # as on Python 3.10 without tomli
    assert read(tmp_path, text) == expected


REFUSED = {
    "unclosed list": ("a = 1\nx = [1, 2\nb = 2\n", 2, "a bracket opened here is not closed"),
    "unclosed list at the end": ("x = [1, 2", 1, "a bracket opened here is not closed"),
    "unclosed list before a table": ("[m]\nx = [1,\n[n]\ny = 1", 2, "not closed"),
    "unclosed header": ("a = 1\n[main\nb = 1", 2, "not closed"),
    "unclosed text": ('a = "x\nb = 1', 1, "the text is not closed on its line"),
    "unclosed text of lines": ("b = 1\na = '''x\ny", 2, "Expected \"'''\""),
    "unclosed inline table": ("a = {b = 1\nc = 1", 1, "not closed"),
    "two values": ("a = 1 2", 1, "Expected newline"),
    "no value": ("a =\nb = 1", 1, "Invalid value"),
    "no equals sign": ("[m]\n\ngid 1", 3, "Expected '=' after a key"),
    "key alone": ("[m]\ngid\n", 2, "Expected '=' after a key"),
    "bare word": ("a = DB", 1, "text needs quotes"),
    "capital true": ("a = True", 1, "Invalid value"),
    "leading zero": ("a = 012", 1, "Expected newline"),
    "infinite": ("a = inf", 1, "[a]: inf is neither a number"),
    "huge exponent": ("a = 1e999", 1, "[a]: inf is neither a number"),
    "date": ("[m]\na = 2015-09-01", 2, "[m] a: 2015-09-01 is neither a number"),
    "key twice": ("[m]\na = 1\nb = 2\na = 3", 4, "the name stands twice"),
    "key twice further up": ("[m]\na = 1\na = 3\nb = 2", 3, "the name stands twice"),
    "key twice in an inline table": ("a = {b = 1, b = 2}", 1, "Duplicate inline table key 'b'"),
    "table twice": ("[m]\na = 1\n[n]\n[m]\nb = 1", 4, "Cannot declare ('m',) twice"),
    "table twice, known at another depth": ("[x.m.y]\n[m]\na = 1\n[m]\nb = 2", 4, "Cannot declare ('m',) twice"),
    "key and table": ("a = 1\n[a]\nb = 1", 2, "the name stands twice"),
    "empty name": ("[]\na = 1", 1, "for a key"),
    "comma too many": ("a = [1,,2]", 1, "Invalid value"),
    "missing comma": ("a = [1 2]", 1, "Unclosed array"),
    "unknown escape": ('a = "C:\\dir"', 1, "write \\\\ for a backslash"),
    "half a character": ('a = "\\ud800"', 1, "not a Unicode scalar value"),
    "control character": ('a = 1\nb = "\x01"', 2, "Illegal character '\\x01'"),
    "too deep": ("a = " + "[" * 100 + "]" * 100, 1, "nested too deeply"),
    "too deep for the interpreter": ("a = " + "{a=" * 20000, 1, "nested too deeply"),
    "too deep by its name": (".".join("a" * 20000) + " = 1", 1, "too many parts"),
    "not UTF-8": (b"a = 1\nb = '\xff'\n", 2, "not UTF-8"),
    "sixteen bit text": ("a = 1".encode("utf-16"), 1, "not UTF-8"),
    # What only the toml library refuses or reads otherwise than it is meant.
    "mixed list": ('b = 1\na = [1, "two", 3.5, true]', 2, "all items of a list must be of one type"),
    "mixed list of lists": ("a = [[1, [2]], [], ['x']]", 1, "all items of a list must be of one type"),
    "hexadecimal without blanks": ("a=0xff", 1, "Invalid date or number"),
    "quotes at a line's end": ("[m]\na = '''\nx=\"\"\ny=''\nz\n'''", 2, "[m] a: the toml library misreads this"),
    "escaped quotes at the beginning": (r'a = "\"\"q"', 1, "[a]: the toml library misreads this"),
    "empty name with quotes": ("[m]\n'c.d'.\"\" = 2", 2, "[m] c.d: the toml library misreads this"),
}


@pytest.mark.parametrize(("text", "line", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_is_refused_with_its_line(tmp_path: Path, text: str | bytes, line: int, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{tmp_path}/a.toml:{line}: ")
    assert reason in problem
    assert "\n" not in problem


def test_a_bracket_that_is_not_closed_is_seen_without_a_second_parser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toml_file, "SECOND_PARSER", None)
    test_is_refused_with_its_line(tmp_path, "a = 1\nx = [1, 2", 2, "a bracket opened here is not closed")
    test_is_refused_with_its_line(tmp_path, "a = 1\nb = 1 2", 2, "invalid literal")


def test_every_value_that_no_setting_can_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, "[m]\na = [1.0,\n nan]\nb = 12:00:00\n[m.n]\nc = {d = 2000-01-01}\n")
    assert [problem.removeprefix(f"{tmp_path}/") for problem in caught.value.problems] == [
        "a.toml:2: [m.a] 2: nan is neither a number nor true or false (text needs quotes)",
        "a.toml:4: [m] b: 12:00:00 is neither a number nor true or false (text needs quotes)",
        "a.toml:6: [m.n.c] d: 2000-01-01 is neither a number nor true or false (text needs quotes)",
    ]


def test_files_that_are_none_are_told_apart(tmp_path: Path) -> None:
    def reason(path: Path) -> str:
        with pytest.raises(SettingsError) as caught:
            read_toml(path)
        (problem,) = caught.value.problems
        assert problem.startswith(f"{path}: ")
        return problem.removeprefix(f"{path}: ")

    assert "no such file" in reason(tmp_path / "missing.toml")
    assert "is a folder" in reason(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in reason(tmp_path / "pipe")
    with open(tmp_path / "huge", "wb") as huge:
        huge.truncate(MAXIMUM_SIZE + 1)
    assert "larger than" in reason(tmp_path / "huge")
    (tmp_path / "file").write_text("")
    assert "cannot be read: Not a directory" in reason(tmp_path / "file" / "below.toml")


def test_a_large_file_is_read_in_reasonable_time(tmp_path: Path) -> None:
    text = "[startup.many.args]\n" + "".join(f"key{number} = ['{number}', 'x']\n" for number in range(20_000))
    values = read(tmp_path, text)
    assert values["startup"]["many"]["args"]["key19999"] == ["19999", "x"]  # type: ignore[index]


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
SCALARS = st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
LISTS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4), max_leaves=8)
TABLES = st.dictionaries(TEXTS, st.dictionaries(TEXTS, LISTS, max_size=4), max_size=4)


def toml_text(tables: dict[str, dict[str, object]]) -> str:
    """JSON's texts, numbers and lists are TOML's, but for DEL."""

    def value(item: object) -> str:
        return json.dumps(item).replace("\x7f", "\\u007f")

    def plain(text: str) -> str:
        return '"' + "".join(f"\\U{ord(character):08x}" for character in text) + '"'

    def encoded(item: object) -> str:
        if isinstance(item, str):
            return plain(item)
        return "[" + ", ".join(map(encoded, item)) + "]" if isinstance(item, list) else value(item)

    lines: list[str] = []
    for name, table in tables.items():
        lines.append(f"[{plain(name)}]")
        lines += [f"{plain(key)} = {encoded(item)}" for key, item in table.items()]
    return "\n".join(lines)


@settings(max_examples=150)
@given(tables=TABLES)
def test_nothing_else_is_read_than_what_is_written(tmp_path: Path, tables: dict[str, dict[str, object]]) -> None:
    try:
        values = read(tmp_path, toml_text(tables))
    except SettingsError as error:
        assert_the_library_is_to_blame(error)
    else:
        assert values == tables


@settings(max_examples=300)
@given(text=st.text(st.sampled_from("ab=1.[]{}\"'\\#,\n \t-_x0"), max_size=40))
def test_rubbish_never_ends_in_a_traceback(tmp_path: Path, text: str) -> None:
    assert toml_file.SECOND_PARSER is not None
    try:
        second = toml_file.SECOND_PARSER(text)
    except ValueError:
        with pytest.raises(SettingsError):
            read(tmp_path, text)
        return
    try:
        assert read(tmp_path, text) == second
    except SettingsError as error:
        assert_the_library_is_to_blame(error)


def assert_the_library_is_to_blame(error: SettingsError) -> None:
    """The text is valid TOML, so that neither our counting of brackets nor the second parser may refuse it."""
    for problem in error.problems:
        assert "a bracket opened here" not in problem
        assert "nested too deeply" not in problem
