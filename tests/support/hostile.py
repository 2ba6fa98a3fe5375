"""Messages that nobody should have sent, by kind: each a function of a random source and a good message, to bytes.

What makes one bad is that no worker can run it as it stands. What is odd and still readable (an unknown field, other spaces) is
not in here.
"""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import random
from collections.abc import Callable
from typing import Any

Make = Callable[[random.Random, dict[str, Any]], bytes]

#: Of the longest that are generated; a few are as long as the queue takes, see `longest`.
_LONG = 50_000


def _changed(**changes: Any) -> Make:
    return lambda _draw, good: json.dumps({**good, **changes}).encode()


def _with_data(**changes: Any) -> Make:
    return lambda _draw, good: json.dumps({**good, "data": {**good["data"], **changes}}).encode()


def _raw(good: dict[str, Any], name: str, value: str) -> bytes:
    """Put text in the place of a value that JSON has no way to write."""
    return json.dumps({**good, name: "@@"}).replace('"@@"', value).encode()


def _truncated(draw: random.Random, good: dict[str, Any]) -> bytes:
    whole = json.dumps(good).encode()
    return whole[: draw.randrange(1, len(whole))]


def _wrong_base64(draw: random.Random, good: dict[str, Any]) -> bytes:
    return base64.b64encode(json.dumps(good).encode())[draw.randint(1, 3) :] + b"="


class _Command:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must never be printed",))


KINDS: dict[str, Make] = {
    "empty": lambda _draw, _good: b"",
    "blank": lambda draw, _good: b" \n\t" * draw.randint(1, 50),
    "not UTF-8": lambda draw, _good: draw.randbytes(draw.randint(1, 200)) + b"\xff\xfe",
    "UTF-16": lambda _draw, good: json.dumps(good).encode("utf-16"),
    "byte order mark": lambda _draw, good: b"\xef\xbb\xbf" + json.dumps(good).encode(),
    "truncated": _truncated,
    "two in one": lambda _draw, good: json.dumps(good).encode() * 2,
    "wrong base64": _wrong_base64,
    "not an object": lambda draw, _good: draw.choice([b"[]", b"42", b'"text"', b"null", b"true"]),
    "version 0": _changed(cloudq=0),
    "version that is text": _changed(cloudq="1"),
    "newer version": _changed(cloudq=99),
    "unknown task": _changed(type="no.such.task"),
    "name that is a path": _changed(type="../../etc/passwd"),
    "name that is a call": _changed(type="os.system('true')"),
    "very long name": lambda draw, good: _changed(type="x" * draw.randint(129, _LONG))(draw, good),
    "very long id": lambda draw, good: _changed(id="x" * draw.randint(101, _LONG))(draw, good),
    "id with a line feed": _changed(id="a\nb"),
    "id with a NUL": _changed(id="a\0b"),
    "missing argument": lambda _draw, good: json.dumps({**good, "data": {}}).encode(),
    "extra argument": _with_data(surprise=1),
    "argument of a wrong type": _with_data(length={"not": "a number"}),
    "arguments that are a list": _changed(data=[1]),
    "large argument of a wrong type": lambda draw, good: _with_data(length="x" * draw.randint(1, _LONG))(draw, good),
    "deep nesting": lambda _draw, good: _raw(good, "data", "[" * 20_000 + "]" * 20_000),
    "huge integer": lambda _draw, good: _raw(good, "data", '{"length":' + "9" * 5_000 + "}"),
    "NaN": lambda _draw, good: _raw(good, "data", '{"length":NaN}'),
    "infinity": lambda _draw, good: _raw(good, "time", "1e999"),
    "duplicate key": lambda _draw, good: _raw(good, "data", '{"length":0,"length":1}'),
    "duplicate field": lambda _draw, good: json.dumps(good).replace('"cloudq": 1', '"cloudq": 1, "cloudq": 1').encode(),
    "lone surrogate": lambda _draw, good: _raw(good, "data", '{"length":"\\ud800"}'),
    "negative attempts": _changed(attempts=-1),
    "time beyond all meaning": _changed(due=1e300),
    "bomb": lambda _draw, _good: gzip.compress(b"0" * 10_000_000),
    "double compression": lambda _draw, good: gzip.compress(gzip.compress(json.dumps(good).encode())),
    "pickle": lambda _draw, _good: pickle.dumps(_Command()),
    "YAML that constructs": lambda _draw, _good: b"!!python/object/apply:os.system ['true']",
    "XML": lambda _draw, _good: b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
    "expired": lambda _draw, good: json.dumps({**good, "expires": good["time"] - 1}).encode(),
}


def generate(draw: random.Random, good: dict[str, Any], count: int) -> list[tuple[str, bytes]]:
    """Return `count` bad messages, the kinds in turn."""
    kinds = list(KINDS)
    return [(kind, KINDS[kind](draw, good)) for kind in (kinds[number % len(kinds)] for number in range(count))]


def longest(size: int) -> bytes:
    """Return a bad message that leaves no room for anything beside it."""
    return b"{" + b"x" * (size - 1)
