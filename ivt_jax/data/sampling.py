"""The order of training data, and what is drawn for a sample: functions of seed and position.

An order has no state: position p lies in epoch p // len(order), each epoch is drawn from
(seed, epoch), so a run resumes anywhere by knowing its step.
"""

import numpy as np

_STEP = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def uniform(keys: np.ndarray, positions: np.ndarray, *, count: int) -> np.ndarray:
    """Numbers in [0, 1) for each of n positions, float64 (n, count), all drawn at once.

    The SplitMix64 generator (Steele, Lea and Flood 2014) with a key for a seed; position p owns
    its outputs [p * count, (p + 1) * count). A NumPy generator a position would take longer to
    make than an image takes to be mirrored.

    Args:
        keys: uint64 (n,).
        positions: uint64 (n,).
        count: numbers for each.
    """
    places = positions[:, None] * np.uint64(count) + np.arange(1, count + 1, dtype=np.uint64)
    bits = keys[:, None] + places * _STEP  # (n, count), modulo 2**64
    for shift, factor in _ROUNDS:
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(11)) * 2.0**-53


class ShuffledOrder:
    """Every epoch is a new permutation of `count` entries."""

    def __init__(self, count: int, *, seed: int):
        self.count = count
        self.seed = seed
        self._epochs: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Entries in an epoch."""
        return self.count

    def __getitem__(self, position: int) -> int:
        """The entry at a position, 0 <= position, in any epoch."""
        epoch, place = divmod(int(position), len(self))
        # Reading threads stand on both sides of an epoch's border, so two epochs are kept, and
        # the dict is replaced as a whole.
        order = self._epochs.get(epoch)
        if order is None:
            order = self._draw(np.random.default_rng([self.seed, epoch]))
            kept = {number: o for number, o in self._epochs.items() if abs(number - epoch) == 1}
            self._epochs = kept | {epoch: order}
        return int(order[place])

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(self.count)


class IdentityOrder(ShuffledOrder):
    """Groups of K entries of one person follow each other, so every entry has positives.

    As the official sampler: in each epoch a person's entries are shuffled and cut into groups
    of K, a remainder waits for another epoch, and persons with fewer than K entries repeat some.
    Groups are spread so that those of one person are far apart and a batch rarely holds two.

    Args:
      identities: (E,) the identity of every entry.
      group: K, entries of a person that stand together.
    """

    def __init__(self, identities: np.ndarray, *, group: int, seed: int):
        super().__init__(len(identities), seed=seed)
        self.group = group
        by_person = np.argsort(identities, kind="stable")
        _, starts = np.unique(np.asarray(identities)[by_person], return_index=True)
        self._persons = np.split(by_person, starts[1:])
        self._groups = [max(len(person) // group, 1) for person in self._persons]

    def __len__(self) -> int:
        """Entries in an epoch: whole groups only."""
        return self.group * sum(self._groups)

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        groups, places = [], []
        for person, count in zip(self._persons, self._groups, strict=True):
            entries = rng.permutation(person)
            if len(entries) < self.group:
                entries = rng.choice(person, self.group)
            groups.append(entries[: count * self.group].reshape(count, self.group))
            places.append((np.arange(count) + rng.random(count)) / count)
        return np.concatenate(groups)[np.argsort(np.concatenate(places))].reshape(-1)
