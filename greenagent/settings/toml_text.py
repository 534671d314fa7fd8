"""Turns TOML into a plain form of itself that the ``toml`` library reads without its defects.

``toml`` 0.10.2 accepts an unclosed bracket in silence, refuses hexadecimal numbers, damages texts
of several lines that hold ``""`` at a line's end, takes a table twice, and knows no line for what
it read (design, section 3). So the text goes through here first: the structure is checked, every
line that matters is noted, and what comes out has one statement per line, no comments, and no
character inside a text that the library could take for syntax.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from greenagent.settings.problems import Place

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN_KEY = re.compile(r"(?!qq)[A-Za-z0-9_-]+\Z")
_SPACE = re.compile(r"[ \t]*")
_TOKEN = re.compile(r"[^\s,\]\}#=\[\{\"']+")
_DECIMAL = re.compile(r"[+-]?(0|[1-9](_?[0-9])*)\Z")
_FLOAT = re.compile(r"[+-]?(0|[1-9](_?[0-9])*)(\.[0-9](_?[0-9])*)?([eE][+-]?[0-9](_?[0-9])*)?\Z")
_BASED = re.compile(r"0(x[0-9a-fA-F](_?[0-9a-fA-F])*|o[0-7](_?[0-7])*|b[01](_?[01])*)\Z")
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9 _./:-]")
_ESCAPE = re.compile(r'\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[btnfr"\\]|[ \t]*\n\s*|.|\Z)', re.DOTALL)
_SIMPLE = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)")
MAXIMUM_DEPTH = 50


class TomlProblem(Exception):
    """A syntax error: ``line`` (from 1) and what is wrong there."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line
        self.text = text


@dataclass(slots=True)
class PlainToml:
    """The plain form, the line of every table and key, and the original line of every plain line."""

    text: str
    places: dict[Place, int] = field(default_factory=dict)
    origins: list[int] = field(default_factory=list)


def plain_toml(text: str) -> PlainToml:
    """Checks the structure of TOML text and returns its plain form. Raises TomlProblem for the first error."""
    return _Reader(text.replace("\r\n", "\n")).read()


def encode_key(key: str) -> str:
    """A key in letters, digits, ``_`` and ``-`` alone, which the library never misreads."""
    return key if _PLAIN_KEY.match(key) else "qq" + key.encode("utf-8").hex()


def decode_key(key: str) -> str:
    """The key that ``encode_key`` was given."""
    return bytes.fromhex(key[2:]).decode("utf-8") if key.startswith("qq") else key


def _encode_text(text: str) -> str:
    """A one-line text whose special characters are all escaped; JSON reads it back."""
    return (
        '"'
        + "".join(
            c if _PLAIN_TEXT.match(c) else json.dumps(c)[1:-1] if ord(c) > 126 else f"\\u{ord(c):04x}" for c in text
        )
        + '"'
    )


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counted_to = 0
        self._counted_line = 1
        self._table: Place = ()
        self._headers: set[Place] = set()
        self._plain = PlainToml("")
        self._statements: list[str] = []

    def read(self) -> PlainToml:
        bad = _FORBIDDEN.search(self._text)
        if bad:
            line = self._text.count("\n", 0, bad.start()) + 1
            raise TomlProblem(line, f"the control character U+{ord(bad.group()):04X} is not allowed")
        while self._skip_lines():
            start = self._line()
            if self._text[self._at] == "[":
                self._header(start)
            else:
                self._statement(start)
            self._end_of_line()
        self._plain.text = "\n".join([*self._statements, ""])
        return self._plain

    def _line(self) -> int:
        """The line of the place reached; counted on from the last answer, for long files."""
        self._counted_line += self._text.count("\n", self._counted_to, self._at)
        self._counted_to = self._at
        return self._counted_line

    def _fail(self, text: str, line: int | None = None) -> TomlProblem:
        return TomlProblem(self._line() if line is None else line, text)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip_blanks(self) -> None:
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _skip_comment(self) -> None:
        if self._peek() == "#":
            end = self._text.find("\n", self._at)
            self._at = len(self._text) if end < 0 else end

    def _skip_lines(self) -> bool:
        """Passes blanks, comments and line ends; False at the end of the text."""
        while True:
            self._skip_blanks()
            self._skip_comment()
            if self._peek() != "\n":
                return self._at < len(self._text)
            self._at += 1

    def _end_of_line(self) -> None:
        self._skip_blanks()
        self._skip_comment()
        if self._peek() not in ("", "\n"):
            rest = self._text[self._at :].split("\n", 1)[0].strip()
            raise self._fail(f"nothing may follow here on the line, but {rest[:40]!r} does")

    def _emit(self, statement: str, line: int) -> None:
        self._statements.append(statement)
        self._plain.origins.append(line)

    def _header(self, line: int) -> None:
        self._at += 1
        if self._peek() == "[":
            raise self._fail("lists of tables ([[...]]) are not used here, give each table a name: [section.name]")
        keys = self._keys("]")
        if self._peek() != "]":
            raise self._fail("the bracket of this table's name is not closed", line)
        self._at += 1
        if keys in self._headers:
            raise self._fail(f"the table [{'.'.join(keys)}] stands twice, first on line {self._plain.places[keys]}")
        self._headers.add(keys)
        self._plain.places[keys] = line
        self._table = keys
        self._emit("[" + ".".join(map(encode_key, keys)) + "]", line)

    def _statement(self, line: int) -> None:
        keys = self._keys("=")
        if self._peek() != "=":
            raise self._fail(f"the key '{'.'.join(keys)}' has no '=' and value", line)
        self._at += 1
        self._skip_blanks()
        self._note(self._table + keys, line)
        value = self._value(self._table + keys, 0)
        self._emit(".".join(map(encode_key, keys)) + " = " + value, line)

    def _note(self, place: Place, line: int) -> None:
        if place in self._plain.places:
            first = self._plain.places[place]
            raise self._fail(f"the key '{'.'.join(place)}' stands twice, first on line {first}", line)
        self._plain.places[place] = line

    def _keys(self, end: str) -> Place:
        keys: list[str] = []
        while True:
            self._skip_blanks()
            if self._peek() in ('"', "'"):
                keys.append(self._text_value(multiline=False))
            else:
                match = _BARE_KEY.match(self._text, self._at)
                if match is None:
                    found = self._peek()
                    what = "the end of the line" if found in ("", "\n") else repr(found)
                    raise self._fail(f"a key is expected here, not {what} (other characters need quotes)")
                keys.append(match.group())
                self._at = match.end()
            self._skip_blanks()
            if self._peek() != ".":
                if self._peek() not in (end, "", "\n", "#"):
                    raise self._fail(f"{self._peek()!r} cannot stand in a key without quotes")
                return tuple(keys)
            self._at += 1

    def _value(self, place: Place, depth: int) -> str:
        if depth > MAXIMUM_DEPTH:
            raise self._fail("the value is nested too deeply")
        character = self._peek()
        if character in ('"', "'"):
            return _encode_text(self._text_value(multiline=True))
        if character == "[":
            return self._list(place, depth)
        if character == "{":
            return self._inline_table(place, depth)
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            raise self._fail("a value is missing")
        self._at = match.end()
        return self._scalar(match.group())

    def _scalar(self, token: str) -> str:
        if token in ("true", "false"):
            return token
        if _BASED.match(token):
            return str(int(token.replace("_", ""), 0))
        if _DECIMAL.match(token):
            return str(int(token.replace("_", "")))
        if _FLOAT.match(token):
            number = float(token.replace("_", ""))
            if number - number == 0:
                mantissa, exponent, power = repr(number).partition("e")
                return (mantissa if "." in mantissa else mantissa + ".0") + exponent + power
        raise self._fail(f"{token[:40]!r} is neither a number nor true or false (text needs quotes)")

    def _list(self, place: Place, depth: int) -> str:
        opened = self._line()
        self._at += 1
        items: list[str] = []
        while True:
            if not self._skip_lines():
                raise self._fail("the bracket '[' opened here is not closed", opened)
            if self._peek() == "]":
                self._at += 1
                return "[" + ", ".join(items) + "]"
            if self._peek() == ",":
                raise self._fail("a list has a comma too many")
            items.append(self._item((*place, str(len(items) + 1)), depth, opened))
            more = self._skip_lines()
            if more and self._peek() == ",":
                self._at += 1
            elif not more or self._peek() != "]":
                raise self._fail("the bracket '[' opened here is not closed, or a comma is missing in it", opened)

    def _item(self, place: Place, depth: int, opened: int) -> str:
        try:
            return self._value(place, depth + 1)
        except TomlProblem as problem:
            if depth or problem.line == opened:
                raise
            # A list that nobody closed swallows the lines below it, which then look wrong.
            text = f"the bracket '[' opened here is not closed, or line {problem.line} is wrong: {problem.text}"
            raise self._fail(text, opened) from problem

    def _inline_table(self, place: Place, depth: int) -> str:
        opened = self._line()
        self._at += 1
        items: list[str] = []
        self._skip_blanks()
        while self._peek() != "}":
            keys = self._keys("=")
            if self._peek() != "=":
                raise self._fail("the brace '{' opened here is not closed, or a '=' is missing in it", opened)
            self._at += 1
            self._skip_blanks()
            self._note(place + keys, self._line())
            value = self._value(place + keys, depth + 1)
            items.append(".".join(map(encode_key, keys)) + " = " + value)
            self._skip_blanks()
            if self._peek() == ",":
                self._at += 1
                self._skip_blanks()
            elif self._peek() != "}":
                raise self._fail("the brace '{' opened here is not closed, or a comma is missing in it", opened)
        self._at += 1
        return "{" + ", ".join(items) + "}"

    def _text_value(self, multiline: bool) -> str:
        quote = self._peek()
        opened = self._line()
        if self._text.startswith(quote * 3, self._at):
            if not multiline:
                raise self._fail("a key cannot be a text of several lines")
            end = quote * 3
        else:
            end = quote
        self._at += len(end)
        begin = self._at
        while True:
            character = self._peek()
            if character == "" or (character == "\n" and len(end) == 1):
                raise self._fail(f"the text opened with {end} is not closed", opened)
            if character == "\\" and quote == '"':
                self._at += 2
            elif self._text.startswith(end, self._at):
                break
            else:
                self._at += 1
        if len(end) == 3:
            # Up to two quotes may stand right before the closing three.
            for _ in range(2):
                if self._text.startswith(end, self._at + 1):
                    self._at += 1
        raw = self._text[begin : self._at]
        self._at += len(end)
        if len(end) == 3 and raw.startswith("\n"):
            raw = raw[1:]
        return raw if quote == "'" else self._unescape(raw, len(end) == 3, opened)

    def _unescape(self, raw: str, multiline: bool, line: int) -> str:
        def replace(match: re.Match[str]) -> str:
            code = match.group(1)
            if code in _SIMPLE:
                return _SIMPLE[code]
            if code[:1] in ("u", "U") and len(code) > 1:
                number = int(code[1:], 16)
                if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF:
                    raise self._fail(f"the escape \\{code} is no character", line)
                return chr(number)
            if multiline and code.strip(" \t\r\n") == "" and "\n" in code:
                return ""
            raise self._fail(f"the escape '\\{code[:1]}' is not known (write \\\\ for a backslash)", line)

        return _ESCAPE.sub(replace, raw)
