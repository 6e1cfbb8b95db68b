"""Ids must never meet: no two get the same bytes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from shellwego.kit.entropy import Entropy


def test_no_two_calls_get_the_same_bytes() -> None:
    entropy = Entropy()
    with ThreadPoolExecutor(4) as threads:
        given = list(threads.map(lambda _: entropy(20), range(5000)))
    assert {len(bytes) for bytes in given} == {20}
    assert len(set(given)) == len(given)


def test_a_fork_goes_on_with_others() -> None:
    entropy = Entropy()
    entropy(20)
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writes, entropy(20))
        os._exit(0)
    os.waitpid(child, 0)
    try:
        assert os.read(reads, 20) != entropy(20)
    finally:
        os.close(reads)
        os.close(writes)


@pytest.mark.parametrize("count", [-1, 4097])
def test_what_no_pool_holds_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="bytes of 4096"):
        Entropy()(count)
