"""A compact set of digests behaves as Python's set does."""

import random

from hypothesis import given
from hypothesis import strategies as st

from rao_kedro.data.digests import SIZE, DigestSet, digest


def test_it_says_what_is_new_as_a_set_does():
    rng, ours, plain = random.Random(0), DigestSet(), set()
    for _ in range(6000):
        one = digest(str(rng.randrange(3000)))
        assert (one in ours) == (one in plain)
        assert ours.add(one) == (one not in plain)
        plain.add(one)
    assert len(ours) == len(plain) and set(map(len, plain)) == {SIZE}


def test_it_takes_a_few_bytes_a_digest():
    many = DigestSet(digest(str(i)) for i in range(20_000))
    assert len(many._table) <= 20_000 * 8 * SIZE


@given(st.lists(st.text()), st.lists(st.text()))
def test_digests_of_different_parts_differ(a, b):
    assert (digest(*a) == digest(*b)) == (a == b)
