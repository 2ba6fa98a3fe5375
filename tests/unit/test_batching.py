from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from cloudq.batching import Batcher, cut
from support import virtual


def gathered(adds, *, call=1.0, **options):
    """Add items at given times; return the batches as (when they left, items)."""

    async def scenario(clock):
        left = []

        async def handle(batch):
            left.append((clock.monotonic(), batch))
            await asyncio.sleep(call)

        batcher = Batcher(handle, asyncio.get_running_loop().create_task, **{"max_count": 10, **options})
        for at, item in adds:
            if at > clock.monotonic():
                await asyncio.sleep(at - clock.monotonic())
            batcher.add(item)
        await batcher.join()
        return left

    return virtual.run(scenario)


def test_a_lone_item_leaves_at_once():
    assert gathered([(5.0, "a")]) == [(5.0, ["a"])]


def test_what_comes_during_a_call_leaves_together_behind_it():
    adds = [(0.0, "a"), (0.1, "b"), (0.5, "c"), (0.9, "d")]
    assert gathered(adds, patience=2.0) == [(0.0, ["a"]), (1.0, ["b", "c", "d"])]


def test_nobody_waits_for_the_end_of_a_call_that_takes_too_long():
    adds = [(0.0, "a"), (0.1, "b"), (0.5, "c"), (0.9, "d")]
    assert gathered(adds, call=60.0, patience=0.5) == [(0.0, ["a"]), (0.6, ["b", "c"]), (1.4, ["d"])]
    # Unless one call at a time is all that may be: two could overtake each other.
    assert gathered(adds, call=60.0, patience=0.5, max_calls=1) == [(0.0, ["a"]), (60.0, ["b", "c", "d"])]


def test_what_comes_together_leaves_together():
    assert gathered([(1.0, "a"), (1.0, "b")]) == [(1.0, ["a", "b"])]


def test_a_full_batch_does_not_wait_for_the_call_before():
    adds = [(0.0, "first"), *((0.1, n) for n in range(10))]
    assert [at for at, _ in gathered(adds)] == [0.0, 0.1]


def test_calls_under_way_are_bounded():
    adds = [(0.0, n) for n in range(40)]
    assert [at for at, _ in gathered(adds, max_calls=2)] == [0.0, 0.0, 1.0, 1.0]


def test_a_linger_bounds_the_wait_for_company():
    assert gathered([(1.0, "a"), (1.2, "b"), (2.0, "c")], linger=0.5) == [(1.5, ["a", "b"]), (2.5, ["c"])]


def test_hurry_ends_the_linger():
    async def scenario(clock):
        left = []

        async def handle(batch):
            left.append((clock.monotonic(), batch))

        batcher = Batcher(handle, asyncio.get_running_loop().create_task, max_count=10, linger=60.0)
        batcher.add("a")
        await asyncio.sleep(1)
        batcher.hurry()
        await batcher.join()
        return left

    assert virtual.run(scenario) == [(1.0, ["a"])]


items = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 30)), max_size=40)


@given(items, st.integers(1, 7), st.integers(30, 60), st.sampled_from([0.0, 0.3]), st.integers(1, 3))
def test_every_item_is_handled_once_in_order_and_within_the_bounds(sizes, count, most, linger, calls):
    adds = [(at, (number, size)) for number, (at, size) in enumerate(sorted(sizes))]
    batches = gathered(adds, max_count=count, max_bytes=most, size=lambda item: item[1], linger=linger, max_calls=calls)
    assert [item for _, batch in batches for item in batch] == [item for _, item in adds]
    assert all(len(batch) <= count for _, batch in batches)
    assert all(sum(size for _, size in batch) <= most for _, batch in batches)


def test_cut():
    assert cut([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]
    assert cut([], 2) == []
