"""The filter language of a subscription: what a message's attributes must say for the message to be delivered.

Source: docs, "Filter messages from a subscription": `attributes:key`, `attributes.key = "value"`, `!=` and
`hasPrefix(attributes.key, "value")`, joined with AND, OR and NOT (or `-`), in parentheses; AND and OR do not mix without them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Test = Callable[[Mapping[str, str]], bool]

#: docs, as above: 256 bytes.
LONGEST = 256
_TOKEN = re.compile(
    r"""\s*(?:(?P<word>[A-Za-z_][\w-]*)|(?P<text>"(?:[^"\\]|\\.)*")|(?P<sign>!=|[=:.,()-]))""",
    re.ASCII,
)


def parse(text: str) -> Test:
    """Return the test that a filter describes. ValueError says where it cannot be read."""
    if len(text.encode()) > LONGEST:
        raise ValueError(f"a filter has {LONGEST} bytes at the most")
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        position, end = 0, len(text.rstrip())
        while position < end:
            found = _TOKEN.match(text, position)
            if found is None:
                raise ValueError(f"the filter cannot be read at {text[position : position + 20]!r}")
            self._tokens.append(found[0].strip())
            position = found.end()

    def whole(self) -> Test:
        test = self._expression()
        if self._tokens:
            raise ValueError(f"the filter goes on after its end: {self._tokens[0]!r}")
        return test

    def _expression(self) -> Test:
        tests = [self._term()]
        joint = self._peek()
        while self._peek() in ("AND", "OR"):
            if self._next() != joint:
                raise ValueError("AND and OR need parentheses between them")
            tests.append(self._term())
        if joint == "OR":
            return lambda attributes: any(test(attributes) for test in tests)
        return lambda attributes: all(test(attributes) for test in tests)

    def _term(self) -> Test:
        if self._peek() in ("NOT", "-"):
            self._next()
            negated = self._term()
            return lambda attributes: not negated(attributes)
        if self._peek() == "(":
            self._next()
            test = self._expression()
            self._expect(")")
            return test
        if self._peek() == "hasPrefix":
            return self._prefix()
        return self._attribute()

    def _prefix(self) -> Test:
        self._next()
        self._expect("(")
        self._expect("attributes")
        self._expect(".")
        name = self._name()
        self._expect(",")
        start = self._text()
        self._expect(")")
        return lambda attributes: attributes.get(name, "").startswith(start) if name in attributes else False

    def _attribute(self) -> Test:
        self._expect("attributes")
        if self._peek() == ":":
            self._next()
            there = self._name()
            return lambda attributes: there in attributes
        self._expect(".")
        name, sign = self._name(), self._next()
        if sign not in ("=", "!="):
            raise ValueError(f"the filter has {sign!r} where = or != is wanted")
        wanted = self._text()
        if sign == "=":
            return lambda attributes: attributes.get(name) == wanted
        return lambda attributes: attributes.get(name) != wanted

    def _name(self) -> str:
        token = self._next()
        return _unquoted(token) if token.startswith('"') else token

    def _text(self) -> str:
        token = self._next()
        if not token.startswith('"'):
            raise ValueError(f"the filter has {token!r} where a text in quotes is wanted")
        return _unquoted(token)

    def _peek(self) -> str:
        return self._tokens[0] if self._tokens else ""

    def _next(self) -> str:
        if not self._tokens:
            raise ValueError("the filter ends too early")
        return self._tokens.pop(0)

    def _expect(self, wanted: str) -> None:
        found = self._next()
        if found != wanted:
            raise ValueError(f"the filter has {found!r} where {wanted!r} is wanted")


def _unquoted(token: str) -> str:
    return re.sub(r"\\(.)", r"\1", token[1:-1])
