"""The mesh and every PartitionSpec: where parameters, activations and batches live.

Parameters may be split over `fsdp`, the batch is split over both axes. Without a mesh
(tests, conversion, search on one device) every constraint is the identity.
"""

import re

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

BATCH = PartitionSpec(("data", "fsdp"))
REPLICATED = PartitionSpec()

# Parameter path -> spec of its LAST dimensions, so a stacked layer axis in front stays whole.
# There is no catch-all: a parameter that no rule names is an error, not a silent copy.
RULES = (
    (r"blocks/(attention/(qkv|projection)|mlp_(image|text)/(up|down))/kernel", ("fsdp", None)),
    (r"blocks/(attention/(qkv|projection)|mlp_(image|text)/(up|down))/bias", (None,)),
    (r"(blocks/norm[12]|norm|text_norm)/(scale|bias)", (None,)),
    (r"patch/kernel", (None, "fsdp")),
    (r"patch/bias", (None,)),
    (r"(word|position)_table", (None, "fsdp")),
    (r"(type_table|class_token|image_positions|image_types)", (None,)),
)


def make_mesh(*, data: int, fsdp: int) -> jax.sharding.Mesh:
    """A mesh over all devices with axes ('data', 'fsdp'); data = -1 takes what fsdp leaves."""
    count = jax.device_count()
    data = count // fsdp if data == -1 else data
    if data * fsdp != count:
        raise ValueError(
            f"mesh.data={data} x mesh.fsdp={fsdp} = {data * fsdp}, but there are {count} devices"
        )
    return jax.make_mesh((data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def path_name(path) -> str:
    """'blocks/norm1/scale' for a pytree path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def parameter_spec(name: str, ndim: int) -> PartitionSpec:
    """The spec of one parameter; ValueError if RULES do not name it."""
    for pattern, trailing in RULES:
        if re.fullmatch(pattern, name):
            return PartitionSpec(*(None,) * (ndim - len(trailing)), *trailing)
    raise ValueError(f"no sharding rule names the parameter {name!r}; add one to RULES")


def parameter_shardings(mesh, params):
    """NamedShardings for a tree of parameters (arrays or ShapeDtypeStructs)."""

    def one(path, leaf):
        return NamedSharding(mesh, parameter_spec(path_name(path), leaf.ndim))

    return jax.tree_util.tree_map_with_path(one, params)


def state_shardings(mesh, state):
    """Shardings of a TrainState: whatever in it repeats the parameters' paths follows RULES."""

    def one(path, leaf):
        name = path_name(path)
        for start in (match.end() for match in re.finditer("(^|/)", name)):
            try:
                spec = parameter_spec(name[start:], leaf.ndim)
            except ValueError:
                continue
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
