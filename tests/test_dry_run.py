"""A dry run counts what the step needs on machines that are not here."""

import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from configs import base
from ivt_jax.config import ConfigError, compare
from ivt_jax.errors import UserError
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.training import dry_run as module
from ivt_jax.training.chips import CHIPS, network_seconds, parse_target
from ivt_jax.training.compiled import Collective, Traffic, read_traffic
from ivt_jax.training.dry_run import Compiled, dry_run, largest_batch
from ivt_jax.training.flops import step_flops
from pretrain.main import main as pretrain
from pretrain.objective import VIEWS, make_objective

ROOT = Path(__file__).parent.parent
jax.devices()  # before any dry run could ask for another number
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is absent: pip install -r requirements-dev.txt",
)


def tiny(**changes):
    config = base.get_config()
    config.update_from_flattened_dict(
        {
            "model.image_size": (32, 32),
            "model.width": 32,
            "model.depth": 2,
            "model.heads": 2,
            "model.vocabulary_size": 64,
            "model.max_text_positions": 16,
            "data.text_length": 8,
            "data.directory": "/nowhere",
            "objective.chunk": 16,
            "training.batch_size": 64,
        }
        | changes
    )
    return config


def run(config, machine, **options):
    lines = []
    found = dry_run(
        config, machine, make_objective=make_objective, views=VIEWS, say=lines.append, **options
    )
    return found, "\n".join(lines)


HEALTH = 2 * 128 * 4 + 8 * 4  # bytes: losses and gradient norms of 128 steps, eight counts


def parameters(config) -> int:
    """Counted from the sizes, not from the model."""
    width, depth = config.model.width, config.model.depth
    block = 4 * width**2 + 4 * width + 2 * (8 * width**2 + 5 * width) + 4 * width
    patches = (config.model.image_size[0] // 16) * (config.model.image_size[1] // 16)
    tables = config.model.vocabulary_size + config.model.max_text_positions + 2
    tables += 2 * (patches + 1) + 1
    return depth * block + (tables + 16 * 16 * 3 + 1 + 2 + 2) * width


@needs_libtpu
def test_where_there_is_no_tpu_its_compiler_is_silent():
    variables = {n: v for n, v in os.environ.items() if n != "JAX_PLATFORMS" and "TPU" not in n}
    variables["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # or it gives way to other programs, silently
    script = "import ivt_jax.training.sharding, jax; print(jax.devices()[0].platform)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.stdout and not done.stderr


@needs_libtpu
def test_a_slice_of_tpus_is_compiled_for_without_one():
    config = tiny(**{"optimizer.name": "adamw"})
    found, said = run(config, "v5e:2x2", search=False)
    assert "v5e:2x2: 4 chips on 1 host(s), mesh data=4 x fsdp=1" in said
    # Parameters and two moments; the counts of the step, of Adam and of the schedule.
    assert found.state == 3 * 4 * parameters(config) + 3 * 4 + HEALTH
    batch = 16 * (32 * 32 * 3 + 8 * 4 + 8 + 4)
    assert found.state + batch <= found.arguments <= 1.5 * (found.state + batch)  # padded
    assert 0 < found.temporaries < found.needed < CHIPS["v5e"].hbm
    assert found.outputs < 0.01 * found.arguments, "the new state takes the place of the old"
    assert found.traffic
    kinds = {collective.kind for collective in found.traffic.collectives}
    assert kinds == {"all-gather", "all-reduce", "reduce-scatter"}
    assert "bound by" in said and "pairs/s" in said


@needs_libtpu
@pytest.mark.slow
def test_a_batch_that_no_chip_holds_is_refused_with_the_largest_that_fits(monkeypatch):
    monkeypatch.setattr(module, "_SEARCHES", 1)
    with pytest.raises(UserError, match=r"needs [\d.]+ GiB on each chip of v5e:2x2, .*\n.*remat"):
        run(tiny(**{"training.batch_size": 2**22}), "v5e:2x2")


@needs_libtpu
@pytest.mark.parametrize(
    ("machine", "sentence"),
    [("v5e:3x5", "v5e:3x5 is no topology of TPUs: .*3x5"), ("v4:4x4x8", "batch_size: .*; 128 is")],
)
def test_a_topology_that_does_not_exist_or_suit_is_an_error(machine, sentence):
    with pytest.raises(UserError, match=sentence):
        run(tiny(), machine)


@needs_libtpu
def test_meshes_keep_fsdp_inside_a_slice_and_split_a_torus():
    devices = module.find_devices(parse_target("2xv5e:4x4"))
    mesh = module.make_mesh(data=-1, fsdp=2, devices=devices)
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    assert mesh.shape == {"data": 16, "fsdp": 2}
    assert (slices == np.repeat([0, 1], 8)[:, None]).all()
    with pytest.raises(ValueError, match="multiple of the 2 slices"):
        module.make_mesh(data=1, fsdp=32, devices=devices)
    chips = module.find_devices(parse_target("v4:4x4x4"))
    assert len(chips) == 64, "the two cores of a v4 chip are one device"


def test_simulated_devices_need_no_compiler_for_tpus(tmp_path):
    config = tiny(**{"mesh.optimizer": "split", "optimizer.name": "adamw"})
    found, said = run(config, "cpu:8")
    assert "8 chips" in said and "no estimate of time" in said
    kernels = 2 * (4 * 32**2 + 2 * 8 * 32**2) + 32 * 768 + 32 * (64 + 16)
    whole = parameters(config) - kernels
    assert found.state == 4 * (parameters(config) + 2 * (whole + kernels // 8)) + 3 * 4 + HEALTH


def test_wrong_machines_meshes_and_batches_get_a_sentence():
    for machine, sentence in {
        "v9:2x2": "no chip 'v9'; known are v4, v5e, v5p, v6e and cpu",
        "v5e": "names no machine",
        "v5e:4x4x4": "has 2 size",
        "2xcpu:4": "has 1 size",
        "v5e:0x4": "at least 1",
        "cpu:99": "process of its own",
    }.items():
        with pytest.raises(UserError, match=re.escape(sentence)):
            run(tiny(), machine)
    with pytest.raises(ConfigError, match="must be a multiple of .* 8 devices; 64 is"):
        run(tiny(**{"training.batch_size": 63}), "cpu:8")
    with pytest.raises(ConfigError, match="mesh.data: times mesh.fsdp = 3"):
        run(tiny(**{"mesh.fsdp": 3}), "cpu:8")


def test_the_command_compiles_and_needs_no_data_or_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changed = compare(base.get_config(), tiny())
    flags = [f"--config.{line.split(':')[0]}={line.split(' -> ')[1]}" for line in changed]
    flags = [flag.replace("'", "") if "directory" in flag else flag for flag in flags]
    assert pretrain([f"--config={ROOT}/configs/base.py", "--dry_run=cpu:8", *flags]) == 0
    assert "batch 64 = 8 pairs a chip" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_flops_agree_with_published_counts_and_with_the_compiler():
    config = IVTConfig(image_size=(224, 224))
    pair = step_flops(config, batch_size=1, views=1, image_tokens=197, text_tokens=64)
    image = step_flops(config, batch_size=1, views=1, image_tokens=197, text_tokens=0)
    # 35.13e9 forward, of which the patches have 0.23e9 and a backward pass of no more than that:
    # open_clip, docs/model_profile.csv, ViT-B-16.
    assert image.model == pytest.approx(3 * 35.13e9 - 0.23e9, rel=2e-3)
    assert pair.model - image.model == pytest.approx(3 * 11.02e9, rel=2e-3)  # 64 tokens, 12 blocks
    assert pair.model == pair.executed > pair.once
    again = step_flops(
        dataclasses.replace(config, remat="block"),
        batch_size=8,
        views=1,
        image_tokens=197,
        text_tokens=64,
        accumulate=4,
    )
    assert again.executed / again.model == pytest.approx(5 / 3, rel=0.01)


def test_the_largest_batch_is_found_by_compiling_few():
    limit, tried = 16 * 2**30, []

    def compiled(batch):
        tried.append(batch)
        needed = int(2.5e9 + 1.9e7 * batch + 3e3 * batch**2)
        return Compiled(
            batch_size=batch,
            seconds=0.0,
            needed=needed,
            state=2 * 10**9,
            traffic=Traffic([], 0, 0) if needed < limit else None,
        )

    truth = max(b for b in range(16, 2000, 16) if compiled(b).fits)
    for asked in (16, 256, 4096):
        tried.clear()
        found = largest_batch(compiled(asked), compiled, unit=16, limit=limit)
        assert found.fits and 0.9 * truth < found.batch_size <= truth
        assert found.batch_size % 16 == 0 and len(tried) <= 5
    hopeless = largest_batch(compiled(4096), compiled, unit=4096, limit=limit)
    assert not hopeless.fits and hopeless.batch_size == 4096


SCAN = 5


def test_collectives_in_a_loop_count_as_often_as_they_run():
    mesh = module.make_mesh(data=4, fsdp=2)

    def summed(x):
        def body(total, _):
            return total + jax.lax.psum(jnp.sin(total), "fsdp"), None

        return jax.lax.all_gather(jax.lax.scan(body, x, None, length=SCAN)[0], "data", tiled=True)

    rows = PartitionSpec("data")
    function = jax.shard_map(
        summed, mesh=mesh, in_specs=rows, out_specs=PartitionSpec(), check_vma=False
    )
    compiled = jax.jit(function).lower(np.ones((8, 16), np.float32)).compile()
    found = {c.kind: c for c in read_traffic(str(compiled.as_text())).collectives}
    assert set(found) == {"all-reduce", "all-gather"}
    assert (found["all-reduce"].runs, found["all-reduce"].size) == (SCAN, 2 * 16 * 4)
    assert (found["all-gather"].runs, found["all-gather"].size) == (1, 8 * 16 * 4)
    assert found["all-reduce"].groups.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert found["all-gather"].groups.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]


# Written by hand in the forms that compilers print.
PROGRAM = """
%fused (p0: f32[12,8], p1: s32[]) -> f32[1,8] {
  %p0 = f32[12,8]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  ROOT %part = f32[1,8]{1,0} dynamic-slice(%p0, %p1, %p1), dynamic_slice_sizes={1,8}
}
%body (b: (s32[], f32[12,8])) -> (s32[], f32[12,8]) {
  %b = (s32[], f32[12,8]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%b), index=0
  %a = f32[12,8]{1,0} get-tuple-element(%b), index=1
  %read = f32[1,8]{1,0:T(8,128)S(1)} fusion(%a, %i), kind=kLoop, calls=%fused
  %sum = f32[1,8]{1,0:T(8,128)S(1)} all-reduce(%read), replica_groups=[2,4]<=[4,2]T(1,0)
  %again = f32[16,8]{1,0:T(8,128)S(1)} all-gather(%sum), channel_id=9, replica_groups=[1,8]<=[8]
  ROOT %next = (s32[], f32[12,8]{1,0}) tuple(%i, %a)
}
%condition (c: (s32[], f32[12,8])) -> pred[] {
  %c = (s32[], f32[12,8]{1,0}) parameter(0)
  %limit = s32[]{:T(128)} constant(12)
  %now = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %less = pred[]{:T(512)} compare(%now, %limit), direction=LT
}
ENTRY %main (x: f32[12,8]) -> f32[16,8] {
  %x = f32[12,8]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[12,8]{1,0}) tuple(%zero, %x)
  %loop = (s32[], f32[12,8]{1,0}) while(%start), condition=%condition, body=%body
  %wide = f32[2,8]{1,0} slice(%x), slice={[0:2], [0:8]}
  %got = (f32[2,8], f32[16,8]) all-gather-start(%wide), replica_groups=mesh['a'=4,'b'=2] {'a','b'}
  %done = f32[16,8]{1,0} all-gather-done(%got)
  %far = ((f32[12,8]{1,0}), f32[3,8]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:3], [0:8]}
  %there = f32[3,8]{1,0:S(1)} slice-done(%far)
  ROOT %same = f32[16,8]{1,0:T(8,128)S(1)} all-gather(%sum), channel_id=9, replica_groups=[1,8]<=[8]
}
"""


def test_a_program_is_read_in_every_form_that_compilers_print():
    traffic = read_traffic(PROGRAM)
    gather, hidden, reduce = sorted(traffic.collectives, key=lambda c: (c.kind, c.channel != "got"))
    assert (hidden.runs, hidden.channel) == (1, "9"), "one collective, named in two places"
    assert (gather.runs, gather.size, gather.groups.tolist()) == (1, 512, [list(range(8))])
    assert (reduce.runs, reduce.size) == (12, 32)
    assert reduce.groups.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    # Each round reads a slice of 32 bytes and its index, into fast memory; the slice outside is
    # read and written; the gather names source and destination; of what is fetched ahead into
    # fast memory 96 bytes are read, though its whole source is named.
    assert traffic.memory_bytes == 12 * (32 + 4) + 2 * 64 + 64 + 512 + 96
    assert traffic.memory_bytes_once == (32 + 4) + 2 * 64 + 64 + 512 + 96


def test_time_on_the_network_by_hand():
    chip = CHIPS["v5e"]
    groups = np.arange(8)[None]
    reduce = Collective("all-reduce", 3, 10**9, groups, "1")
    one_slice = network_seconds([reduce], chip, np.zeros(8, int))
    assert one_slice == pytest.approx(3 * 2 * 1e9 * 7 / 8 / 200e9)
    two = network_seconds([reduce], chip, np.repeat([0, 1], 4))
    assert two == pytest.approx(3 * 2 * 1e9 * (3 / 4 / 200e9 + 1 / 4 / 2 / (25e9 / 8)))
