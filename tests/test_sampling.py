"""Orders of training data: what an epoch holds, and that a position alone tells the entry."""

import collections
import threading

import numpy as np
import pytest

from ivt_jax.data.sampling import IdentityOrder, ShuffledOrder, uniform


def epoch(order, number):
    return [order[number * len(order) + place] for place in range(len(order))]


def test_every_epoch_is_a_new_permutation():
    order = ShuffledOrder(57, seed=3)
    epochs = [epoch(order, number) for number in range(4)]
    assert all(sorted(entries) == list(range(57)) for entries in epochs)
    assert len({tuple(entries) for entries in epochs}) == 4


def test_seeds_differ():
    assert epoch(ShuffledOrder(57, seed=3), 0) != epoch(ShuffledOrder(57, seed=4), 0)


IDENTITIES = np.repeat([7, 1, 9, 4, 30], [9, 3, 4, 1, 16])  # of 33 entries


def orders(seed=5):
    return [ShuffledOrder(33, seed=seed), IdentityOrder(IDENTITIES, group=4, seed=seed)]


@pytest.mark.parametrize("kind", [0, 1])
def test_a_position_tells_the_entry_in_any_order_of_access(kind):
    order = orders()[kind]
    expected = [order[position] for position in range(5 * len(order))]
    shuffled = np.random.default_rng(0).permutation(len(expected))
    again = orders()[kind]
    assert [again[int(p)] for p in shuffled] == [expected[p] for p in shuffled]
    assert [again[np.int64(p)] for p in (0, 99)] == [expected[0], expected[99]]


@pytest.mark.parametrize("kind", [0, 1])
def test_threads_that_read_different_epochs_do_not_disturb_each_other(kind):
    order = orders()[kind]
    expected = [epoch(orders()[kind], number) for number in range(4)]
    found = [[] for _ in range(4)]

    def read(number):
        for _ in range(20):
            found[number].append(epoch(order, number))

    threads = [threading.Thread(target=read, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert all(entries == expected[number] for entries in found[number])


def test_groups_hold_one_person_and_remainders_wait():
    order = IdentityOrder(IDENTITIES, group=4, seed=0)
    assert len(order) == 4 * (2 + 1 + 1 + 1 + 4)
    waited = set(range(9))
    for number in range(12):
        groups = np.array(epoch(order, number)).reshape(-1, 4)
        persons = IDENTITIES[groups]
        assert (persons == persons[:, :1]).all()
        counts = collections.Counter(persons[:, 0].tolist())
        assert counts == {7: 2, 1: 1, 9: 1, 4: 1, 30: 4}
        for person in (7, 9, 30):  # with enough entries, none stands twice in an epoch
            entries = groups[persons[:, 0] == person].ravel()
            assert len(set(entries)) == len(entries)
        assert set(groups[persons[:, 0] == 4].ravel()) == set(np.flatnonzero(IDENTITIES == 4))
        waited -= set(groups.ravel().tolist())
    assert not waited, "an entry left out once comes another time"


def test_groups_of_a_person_are_spread():
    """200 persons of 3 groups: in batches of 16 groups hardly one person stands twice."""
    identities = np.repeat(np.arange(200), 12)
    order = IdentityOrder(identities, group=4, seed=1)
    doubles = batches = 0
    for number in range(3):
        persons = identities[np.array(epoch(order, number)).reshape(-1, 4)[:, 0]]
        for start in range(0, len(persons) - 15, 16):
            batch = persons[start : start + 16]
            doubles += len(batch) - len(set(batch.tolist()))
            batches += 1
    # Shuffled groups would meet 0.4 times a batch.
    assert doubles / batches < 0.15


def test_epochs_of_groups_differ():
    order = IdentityOrder(IDENTITIES, group=4, seed=0)
    assert len({tuple(epoch(order, number)) for number in range(5)}) == 5


def test_the_numbers_of_a_position_are_splitmix64s():
    # The first five outputs for the seed 1234567, as published with several implementations.
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    expected = [(number >> 11) / 2**53 for number in published]
    keys = np.full(5, 1234567, np.uint64)
    singly = uniform(keys, np.arange(5, dtype=np.uint64), count=1)
    assert singly[:, 0].tolist() == expected
    assert uniform(keys[:2], np.array([1, 0], np.uint64), count=2).tolist() == [
        expected[2:4],
        expected[:2],
    ]


def test_numbers_of_neighbouring_positions_and_keys_are_uniform_and_unrelated():
    keys = np.repeat(np.arange(20, dtype=np.uint64) << np.uint64(32), 500)
    drawn = uniform(keys, np.tile(np.arange(500, dtype=np.uint64), 20), count=3)
    counts = np.histogram(drawn, 21, (0, 1))[0]
    expected = drawn.size / 21
    assert ((counts - expected) ** 2 / expected).sum() < 60  # chi-square, 20 degrees: 1e-5
    related = np.corrcoef(np.concatenate([drawn, np.roll(drawn, 1, axis=0)], axis=1).T)
    assert abs(related - np.eye(6)).max() < 0.05
