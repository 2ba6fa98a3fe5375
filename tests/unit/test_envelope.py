from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudq.envelope import VERSION, Envelope, Newer, Unreadable, copy, decode, encode

ids = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=100)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.\-]{0,127}", fullmatch=True)
times = st.floats(0, 1e11, allow_nan=False)
data = st.dictionaries(st.text(max_size=8), st.one_of(st.integers(-(2**63), 2**63), st.text(max_size=8), st.none()), max_size=4)


@st.composite
def envelopes(draw):
    return Envelope(
        cloudq=VERSION,
        id=draw(ids),
        type=draw(names),
        time=draw(times),
        data=msgspec.Raw(msgspec.json.encode(draw(data))),
        due=draw(st.none() | times),
        expires=draw(st.none() | times),
        priority=draw(st.sampled_from(["high", "normal", "low"])),
        ordering_key=draw(st.none() | st.text(min_size=1, max_size=8)),
        generation=draw(st.integers(0, 100)),
        attempts=draw(st.integers(0, 100)),
        offers=draw(st.integers(0, 100)),
    )


@given(envelopes())
def test_what_is_encoded_is_decoded(envelope):
    assert decode(encode(envelope)) == envelope


@given(st.binary(max_size=200))
def test_decoding_any_bytes_gives_a_value(body):
    assert isinstance(decode(body), (Envelope, Unreadable, Newer))


@given(envelopes(), st.integers(0, 500), st.integers(0, 5))
def test_decoding_damaged_bytes_gives_a_value(envelope, position, flip):
    body = bytearray(encode(envelope))
    body[position % len(body)] ^= 1 << flip
    assert isinstance(decode(bytes(body)), (Envelope, Unreadable, Newer))


@given(envelopes(), st.integers(1, 50), st.integers(0, 50))
def test_a_copy_changes_its_numbers_and_nothing_else(envelope, generation, attempts):
    body = encode(envelope)[:-1] + b',"later_field":{"kept":[1,2]}}'
    copied = copy(body, generation=generation, attempts=attempts, due=None)
    again = decode(copied)
    assert again == msgspec.structs.replace(envelope, generation=generation, attempts=attempts)
    offered = decode(copy(body, generation=generation, attempts=attempts, due=None, offers=3))
    assert offered == msgspec.structs.replace(again, offers=3)
    assert msgspec.json.decode(copied)["later_field"] == {"kept": [1, 2]}


def test_the_id_of_a_copy_counts_copies():
    first = Envelope(cloudq=1, id="t", type="x", time=0.0, data=msgspec.Raw(b"{}"))
    assert first.message_id == "t"
    assert msgspec.structs.replace(first, generation=3).message_id == "t:3"


def test_the_wire_is_the_documented_json():
    envelope = Envelope(cloudq=1, id="t1", type="shop.render", time=12.5, data=msgspec.Raw(b'{"a":1}'))
    assert encode(envelope) == b'{"cloudq":1,"id":"t1","type":"shop.render","time":12.5,"data":{"a":1}}'


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not a cloudq message"),
        (b"\xff\xfe", "not a cloudq message"),
        (b"[]", "not a cloudq message"),
        (b"{}", "required field"),
        (b'{"cloudq":1,"id":"t","type":"x","time":1,"data":{}', "not a cloudq message"),
        (b'{"cloudq":0,"id":"t","type":"x","time":1,"data":{}}', "envelope version 0"),
        (b'{"cloudq":1,"id":"","type":"x","time":1,"data":{}}', "the id"),
        (b'{"cloudq":1,"id":"a b","type":"x","time":1,"data":{}}', "the id"),
        (b'{"cloudq":1,"id":"t","type":"../x","time":1,"data":{}}', "the task name"),
        (b'{"cloudq":1,"id":"t","type":"x","time":NaN,"data":{}}', "not a cloudq message"),
        (b'{"cloudq":1,"id":"t","type":"x","time":1,"data":{},"attempts":-1}', "cannot be negative"),
        (b'{"cloudq":1,"id":"t","id":"u","type":"x","time":1,"data":{}}', "the key 'id' stands twice"),
        (b'{"cloudq":1,"id":"t","type":"x","time":1,"data":{"a":{"b":1,"b":2}}}', "the key 'b' stands twice"),
        (b"[" * 100_000, "not a cloudq message"),
        (b'{"cloudq":1,"id":"t","type":"x","time":1,"data":{},"due":1e300}', "seconds since the epoch"),
    ],
)
def test_what_cannot_be_read_says_why(body, says):
    reading = decode(body)
    assert isinstance(reading, Unreadable)
    assert says in reading.reason


@pytest.mark.parametrize("body", [b'{"cloudq":2,"id":"t"}', b'{"cloudq":7,"id":"t","type":"x","time":1,"data":{}}'])
def test_a_newer_version_is_told_apart(body):
    assert isinstance(decode(body), Newer)
