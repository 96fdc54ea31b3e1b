"""Copies that differ are found wherever they are, with the device and the leaf."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from runs import ROOT, environment, free_port

from ivt_jax.errors import UserError
from ivt_jax.training.replicas import make_check, with_flipped_bit
from ivt_jax.training.sharding import make_mesh

SPECS = {
    "copied": PartitionSpec(),
    "count": PartitionSpec(),
    "half": PartitionSpec(None, "fsdp"),
    "whole": PartitionSpec(("data", "fsdp")),  # no copies at all
}


@pytest.fixture(scope="module")
def made():
    """(mesh, state, check): four by two devices."""
    mesh = make_mesh(data=4, fsdp=2)
    shardings = {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}
    state = {
        "copied": jnp.linspace(-1, 1, 12).reshape(4, 3),
        "count": jnp.int32(3),
        "half": jnp.ones((3, 8)),
        "whole": jnp.zeros(16),
    }
    state = jax.device_put(state, shardings)
    shapes = jax.eval_shape(lambda x: x, state)
    with jax.set_mesh(mesh):
        yield mesh, state, make_check(shapes, shardings, mesh)


def with_copy(leaf, device, index, value):
    """The leaf with one element of one device's copy changed."""
    parts = [shard.data for shard in leaf.addressable_shards]
    changed = np.array(parts[device])
    changed[index] = value
    parts[device] = jax.device_put(changed, parts[device].device)
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, parts)


def test_equal_copies_pass(made):
    _, state, check = made
    check(state, 1)


@pytest.mark.parametrize("device", [0, 3, 7])
@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        ("copied", (2, 1), 0.5),
        ("copied", (0, 2), np.nan),
        ("count", (), 4),
        ("half", (0, 3), np.nextafter(1, 2, dtype="f4")),
    ],
)
def test_a_changed_element_names_device_and_leaf(made, device, name, index, value):
    mesh, state, check = made
    changed = state | {name: with_copy(state[name], device, index, value)}
    number = state[name].addressable_shards[device].device.id
    with pytest.raises(UserError, match=rf"device {number} \(cpu\) of process 0: {name}") as found:
        check(changed, 7)
    assert "at step 7" in str(found.value) and found.value.exit_code == 3
    assert str(found.value).count("of process 0") == 1, "the others agree"


def test_every_bit_counts(made):
    _, state, check = made
    for bit in (0, 15, 31):
        flipped = np.array(state["copied"]).view(np.uint32) ^ np.uint32(1 << bit)
        value = flipped.view(np.float32)[3, 2]
        with pytest.raises(UserError, match="device 5"):
            check(state | {"copied": with_copy(state["copied"], 5, (3, 2), value)}, 1)


def test_two_copies_that_differ_are_both_named():
    mesh = jax.make_mesh(
        (2, 1),
        ("data", "fsdp"),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
        devices=jax.devices()[:2],
    )
    sharding = NamedSharding(mesh, PartitionSpec())
    state = jax.device_put(jnp.ones(3), sharding)
    check = make_check(jax.ShapeDtypeStruct((3,), np.float32), sharding, mesh)
    with jax.set_mesh(mesh), pytest.raises(UserError) as found:
        check(with_flipped_bit(state), 1)
    assert "device 0" in str(found.value) and "device 1" in str(found.value)


TWO = """
    import sys, jax, numpy as np, jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec
    rank, port = map(int, sys.argv[1:])
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
    from ivt_jax.errors import run
    from ivt_jax.training.replicas import make_check, with_flipped_bit
    from ivt_jax.training.sharding import make_mesh
    mesh = make_mesh(data=-1, fsdp=1)
    sharding = NamedSharding(mesh, PartitionSpec())
    one = {"weights": jax.make_array_from_callback((5,), sharding, lambda _: np.ones(5, "f4"))}
    check = make_check(jax.eval_shape(lambda x: x, one), {"weights": sharding}, mesh)
    def main(_):
        with jax.set_mesh(mesh):
            check(one, 1)
            print("equal", flush=True)
            check(with_flipped_bit(one, device=0) if rank == 1 else one, 2)
    code = run(main, [])
    jax.distributed.shutdown()
    sys.exit(code)
"""


def test_a_flip_on_one_of_two_processes_is_named_by_both():
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(TWO), str(rank), str(port)],
            cwd=ROOT,
            env=environment(devices=2),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (told, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 3, errors
        assert told.count("equal") == 1
        assert "of process 1: weights" in errors and "of process 0" not in errors
