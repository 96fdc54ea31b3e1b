"""Whether all devices hold the same copies: one pass over a state.

Silent faults of a device (a flipped bit in its memory, a wrong product) change one copy of a
parameter and spread through the gradients, without any loss that looks wrong.
"""

from collections import Counter, defaultdict
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from ivt_jax.errors import EXIT_DIVERGED, UserError
from ivt_jax.training.sharding import path_name


def make_check(shapes, shardings, mesh) -> Callable[..., None]:
    """A function of (state, step) that raises UserError (exit code 3) if copies differ.

    It names every device whose copy of something differs from that of most devices (all holders,
    where there is no majority). A single changed element is always found. It compiles once, and
    compares copies across processes; all processes have to call it.

    Args:
      shapes, shardings: the state as ShapeDtypeStructs and NamedShardings, any tree.
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    axes = PartitionSpec(mesh.axis_names)
    holders = [
        _holders(shape.shape, sharding)
        for shape, sharding in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    ]

    @jax.jit
    def inspected(state):
        local = jax.shard_map(
            _fingerprints,
            mesh=mesh,
            in_specs=(jax.tree.map(lambda sharding: sharding.spec, shardings),),
            out_specs=axes,
            check_vma=False,  # copies may differ, that is the question
        )
        return jax.lax.with_sharding_constraint(
            local(state), jax.sharding.NamedSharding(mesh, PartitionSpec())
        )

    def check(state, step: int) -> None:
        table = np.asarray(inspected(state))  # (devices, leaves)
        odd = _odd_devices(dict(zip(mesh.devices.flat, table, strict=True)), holders)
        lines = [f"{_named(d)}: {_few([paths[i] for i in leaves])}" for d, leaves in odd.items()]
        if odd:
            raise UserError(
                "\n  ".join([f"at step {step} copies of the same values differ:", *lines])
                + "\nNothing of this state is saved. The same command goes on from the newest "
                "checkpoint; leave out a device that is named again.",
                exit_code=EXIT_DIVERGED,
            )

    return check


def with_flipped_bit(state, *, device: int = -1):
    """The state with one bit of one device's copy of the first parameter changed, for tests."""
    leaves, tree = jax.tree.flatten(state)
    number = next(i for i, leaf in enumerate(leaves) if leaf.ndim)
    parts = [shard.data for shard in leaves[number].addressable_shards]
    words = np.array(parts[device])
    words.reshape(-1).view(np.uint32)[0] ^= 1 << 20  # the lowest may be rounded away again
    parts[device] = jax.device_put(words, parts[device].device)
    leaf = leaves[number]
    leaves[number] = jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, parts)
    return tree.unflatten(leaves)


def _fingerprints(state):
    """(1, leaves) uint32 of this device's own values: sums over all their bits."""

    def one(leaf):
        words = leaf.reshape(-1)
        if leaf.dtype.itemsize < 4:
            words = words.astype(jnp.float32 if jnp.issubdtype(leaf.dtype, jnp.inexact) else int)
        bits = jax.lax.bitcast_convert_type(words, jnp.uint32)
        # Odd factors: a change of one element changes the sum, whatever it is.
        factors = 2 * jax.lax.iota(jnp.uint32, bits.size) + 1
        return jnp.sum(bits.reshape(-1) * factors, dtype=jnp.uint32)

    return jnp.stack([one(leaf) for leaf in jax.tree.leaves(state)])[None]


def _holders(shape: tuple[int, ...], sharding) -> list[list]:
    """Devices that hold the same part of an array, for every part."""
    groups = defaultdict(list)
    for device, index in sharding.devices_indices_map(shape).items():
        groups[str(index)].append(device)
    return [group for group in groups.values() if len(group) > 1]


def _odd_devices(prints: dict, holders: list[list[list]]) -> dict:
    """Device -> numbers of the leaves whose copy there is unlike the others."""
    odd = defaultdict(list)
    for number, groups in enumerate(holders):
        for devices in groups:
            for device in _odd(devices, [int(prints[device][number]) for device in devices]):
                odd[device].append(number)
    return odd


def _odd(devices: list, prints: list[int]) -> list:
    """The devices outside the majority; all of them where there is none."""
    (common, count), *_ = Counter(prints).most_common(1)
    if 2 * count <= len(prints):
        return devices
    return [device for device, found in zip(devices, prints, strict=True) if found != common]


def _named(device) -> str:
    return f"device {device.id} ({device.device_kind}) of process {device.process_index}"


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
