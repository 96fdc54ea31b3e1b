"""The mesh and every PartitionSpec: where parameters, activations and batches live.

Parameters may be split over `fsdp`, the batch is split over both axes. Without a mesh
(tests, conversion, search on one device) every constraint is the identity.
"""

import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ivt_jax.training.libtpu import be_quiet_without_tpu

be_quiet_without_tpu()  # here, as what computes imports this module before it asks for devices

_ALL = ("data", "fsdp")
BATCH = PartitionSpec(_ALL)
REPLICATED = PartitionSpec()

# Parameter path -> spec of its LAST dimensions, so a stacked layer axis in front stays whole;
# then that of its optimizer state where mesh.optimizer is "split" (ZeRO-1).
# There is no catch-all: a parameter that no rule names is an error, not a silent copy.
RULES = (
    (
        r"blocks/(attention/(qkv|projection)|mlp_(image|text)/(up|down))/kernel",
        ("fsdp", None),
        (_ALL, None),
    ),
    (r"blocks/(attention/(qkv|projection)|mlp_(image|text)/(up|down))/bias", (None,), (None,)),
    (r"(blocks/norm[12]|norm|text_norm)/(scale|bias)", (None,), (None,)),
    (r"patch/kernel", (None, "fsdp"), (None, _ALL)),
    (r"patch/bias", (None,), (None,)),
    (r"(word|position)_table", (None, "fsdp"), (None, _ALL)),
    (r"(type_table|class_token|image_positions|image_types)", (None,), (None,)),
    (r"health/history", (None, None), (None, None)),
)


def make_mesh(*, data: int, fsdp: int, devices: Sequence | None = None) -> Mesh:
    """A mesh with axes ('data', 'fsdp') over all devices, or over those given.

    data = -1 takes what fsdp leaves. On several TPU slices the data axis goes over the slices, so
    that parameters are gathered inside one. Raises ValueError where the sizes do not fit.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    data = count // fsdp if data == -1 else data
    if data * fsdp != count:
        raise ValueError(
            f"mesh.data={data} x mesh.fsdp={fsdp} = {data * fsdp}, but there are {count} devices"
        )
    tpu = devices[0].platform == "tpu"
    slices = len({getattr(device, "slice_index", None) for device in devices}) if tpu else 1
    if data % slices:
        raise ValueError(f"mesh.data={data} must be a multiple of the {slices} slices")
    # A TPU's torus has axes of its own; an axis of ours may take a part of one.
    if slices == 1:
        grid = mesh_utils.create_device_mesh((data, fsdp), devices, allow_split_physical_axes=tpu)
    else:
        grid = mesh_utils.create_hybrid_device_mesh(
            (data // slices, fsdp), (slices, 1), devices, allow_split_physical_axes=True
        )
    order = [device.process_index for device in grid.flat]
    if order != sorted(order):
        # A batch is cut into the shares of process 0, 1, ...: the mesh has to follow that order.
        placed = sorted(devices, key=lambda device: (device.process_index, device.id))
        grid = np.array(placed).reshape(data, fsdp)
    return Mesh(grid, _ALL, axis_types=(AxisType.Auto,) * 2)


def path_name(path) -> str:
    """'blocks/norm1/scale' for a pytree path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def parameter_spec(name: str, ndim: int) -> PartitionSpec:
    """The spec of one parameter; ValueError if RULES do not name it."""
    return _last_dimensions(_rule(name)[0], ndim)


def split_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The spec of a parameter's optimizer state that is split over all devices.

    Where their number does not divide the dimension it lies as the parameter does: nothing is
    padded.
    """
    params, split = _rule(name)
    sharding = NamedSharding(mesh, _last_dimensions(split, len(shape)))
    try:
        sharding.shard_shape(shape)
    except ValueError:
        return _last_dimensions(params, len(shape))
    return sharding.spec


def _rule(name: str):
    for pattern, *specs in RULES:
        if re.fullmatch(pattern, name):
            return specs
    raise ValueError(f"no sharding rule names the parameter {name!r}; add one to RULES")


def _last_dimensions(trailing, ndim: int) -> PartitionSpec:
    return PartitionSpec(*(None,) * (ndim - len(trailing)), *trailing)


def state_shardings(mesh, state, *, optimizer_state: str = "params"):
    """Shardings of a TrainState: whatever in it repeats the parameters' paths follows RULES.

    optimizer_state: "params" = each moment lies where its parameter does; "split" = over all
    devices, whatever the parameters do.
    """

    def one(path, leaf):
        name = path_name(path)
        for start in (match.end() for match in re.finditer("(^|/)", name)):
            try:
                spec = parameter_spec(name[start:], leaf.ndim)
            except ValueError:
                continue
            if optimizer_state == "split" and name.startswith("opt_state/"):
                spec = split_spec(name[start:], leaf.shape, mesh)
            return NamedSharding(mesh, spec)
        if leaf.ndim == 0:
            return NamedSharding(mesh, REPLICATED)
        raise ValueError(f"no sharding rule names the state leaf {name!r}; add one to RULES")

    return jax.tree_util.tree_map_with_path(one, state)


def constrain(tree, spec: PartitionSpec):
    """Pins every array of a tree to a spec inside jit; the identity where no mesh is set."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), tree)


def gathered(tree):
    """A tree whole on every device: parameters for their use, features to be compared.

    Without it XLA moves activations instead of parameters.
    """
    return constrain(tree, REPLICATED)


def batch_sharded(tree):
    """Arrays split along their first axis over all devices."""
    return constrain(tree, BATCH)


def platform() -> str:
    """What the program being traced is for: "cpu", "gpu" or "tpu".

    That of the mesh, which may be of devices that are not here, else JAX's default.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device is not None else jax.default_backend()


def per_device(function):
    """A function of arrays (B, ...) run on each device's share of their rows, as SPMD code.

    It must return arrays of one row for each of its own; without a mesh it runs on them all.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function
    return jax.shard_map(function, in_specs=BATCH, out_specs=BATCH)


def all_rows(rows):
    """Inside `per_device`: this device's rows -> those of all devices, in their order.

    Its gradient is a reduce-scatter: each device gets only what belongs to its own rows.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return rows
    return jax.lax.all_gather(rows, BATCH[0], tiled=True)


def to_global(mesh, batch: dict) -> dict:
    """This process's share of a batch (numpy, first axis) -> global arrays on the mesh."""
    sharding = NamedSharding(mesh, BATCH)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }
