"""What a checkpoint promises: bit-equal on any mesh, never torn, never silently forgotten."""

import json
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ivt_jax.errors import UserError
from ivt_jax.training import checkpoint as checkpoint_module
from ivt_jax.training import integrity
from ivt_jax.training.checkpoint import (
    Checkpoints,
    choose_step,
    restore_params,
    saved_metrics,
    saved_steps,
)
from ivt_jax.training.sharding import make_mesh, state_shardings
from ivt_jax.training.state import TrainState
from ivt_jax.training.steps import clear_way


@pytest.fixture(scope="module", autouse=True)
def forgive_abandoned_reads():
    """A read that fails leaves coroutines of Orbax, which complain whenever they are collected.

    The hook stays until pytest takes it away: that can be as late as the end of the session.
    """
    report = sys.unraisablehook

    def hook(unraisable):
        abandoned = "coroutine object _read" in repr(unraisable.object)
        if not abandoned and "Event loop is closed" not in str(unraisable.exc_value):
            report(unraisable)

    sys.unraisablehook = hook


BLOCKS = {"mlp_text": {"up": {"kernel": (2, 64, 256), "bias": (2, 256)}}}
SHAPES = {"blocks": BLOCKS, "norm": {"scale": (64,)}}
OPTIMIZER = optax.adam(0.1)


def fresh_state(step=0, shapes=SHAPES):
    rng = np.random.default_rng(step)
    params = jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    return TrainState(jnp.int32(step), params, OPTIMIZER.init(params))


def on_mesh(state, data, fsdp):
    """The state laid out on a mesh, its shapes and its shardings."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    shardings = state_shardings(make_mesh(data=data, fsdp=fsdp), shapes)
    return jax.device_put(state, shardings), shapes, shardings


def save(workdir, steps, *, keep=2):
    """Saves steps with the given scores; None = without an evaluation."""
    with Checkpoints(workdir, keep=keep) as checkpoints:
        for step, score in steps.items():
            metrics = {} if score is None else {"score": score, "val_R1": score / 2}
            checkpoints.save(fresh_state(step), metrics=metrics)
        checkpoints.wait()


def restore(workdir, state, mesh=(8, 1)):
    _, shapes, shardings = on_mesh(state, *mesh)
    with Checkpoints(workdir, keep=2) as checkpoints:
        return checkpoints.restore_newest(shapes, shardings), shardings


def refusal(function, *arguments) -> UserError:
    """The error a call ends with."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    return caught.value


def assert_bit_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


@pytest.mark.parametrize("mesh", [(8, 1), (2, 4), (1, 8)])
def test_the_newest_comes_back_bit_equal_on_another_mesh(tmp_path, mesh):
    state, _, _ = on_mesh(fresh_state(7), 4, 2)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(fresh_state(3), metrics={"score": 99.0})
        checkpoints.save(state, metrics={})
        checkpoints.wait()
    found, shardings = restore(tmp_path, state, mesh)
    assert_bit_equal(found, state)
    for leaf, sharding in zip(jax.tree.leaves(found), jax.tree.leaves(shardings), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


def test_a_new_run_has_nothing_to_restore(tmp_path):
    assert restore(tmp_path, fresh_state())[0] is None


def test_steps_after_a_save_do_not_reach_into_it(tmp_path):
    """The step donates its buffers while the save still writes: the file must hold the old ones."""
    shapes = {"blocks": {"mlp_text": {"up": {"kernel": (4, 1024, 1024)}}}}
    state, abstract, shardings = on_mesh(fresh_state(1, shapes), 4, 2)
    expected = jax.device_get(jax.tree.map(lambda x: x + 0, state))

    def change(state):
        return TrainState(
            state.step + 1,
            jax.tree.map(lambda x: -2.0 * x + 1.0, state.params),
            jax.tree.map(lambda x: x + 1, state.opt_state),
        )

    step = jax.jit(change, donate_argnums=0, in_shardings=(shardings,), out_shardings=shardings)
    warm, _, _ = on_mesh(fresh_state(0, shapes), 4, 2)
    jax.block_until_ready(step(warm))
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(state, metrics={})
        donated = state
        for _ in range(20):
            state = step(state)
        jax.block_until_ready(state)
        checkpoints.wait()
        found = checkpoints.restore_newest(abstract, shardings)
    assert all(x.is_deleted() for x in jax.tree.leaves(donated.params)), "else none was donated"
    assert_bit_equal(found, expected)


def test_the_newest_and_the_best_stay(tmp_path):
    save(tmp_path, {1: 10.0, 2: 50.0, 3: None, 4: 30.0, 5: 20.0, 6: None}, keep=2)
    assert saved_steps(tmp_path) == [2, 5, 6]
    assert choose_step(tmp_path) == 2
    assert choose_step(tmp_path, 5) == 5
    assert saved_metrics(tmp_path, 2) == {"score": 50.0, "val_R1": 25.0}


def test_without_scores_the_newest_is_chosen(tmp_path):
    save(tmp_path, {1: None, 2: None, 3: None, 4: None}, keep=2)
    assert saved_steps(tmp_path)[-2:] == [3, 4]
    assert choose_step(tmp_path) == 4


def test_of_equal_scores_the_later_is_chosen(tmp_path):
    save(tmp_path, {1: 5.0, 2: 5.0}, keep=3)
    assert choose_step(tmp_path) == 2


def test_the_best_of_an_earlier_process_stays(tmp_path):
    save(tmp_path, {1: 50.0, 2: 10.0}, keep=1)
    save(tmp_path, {3: 20.0, 4: 30.0}, keep=1)
    assert saved_steps(tmp_path) == [1, 4]


@pytest.mark.parametrize("fails", [False, True])
def test_a_step_saved_again_is_there_all_the_time(tmp_path, monkeypatch, fails):
    """As after an evaluation that a signal had broken off."""
    save(tmp_path, {1: None, 2: None})
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        if fails:
            monkeypatch.setattr(checkpoints._writer, "save", raising(OSError(28, "full")))
        checkpoints.save(fresh_state(2), metrics={"score": 7.0})
        if fails:
            assert refusal(checkpoints.wait).exit_code == 73
        else:
            checkpoints.wait()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]
    assert sorted(path.name for path in (tmp_path / "integrity").iterdir()) == ["1.json", "2.json"]
    assert saved_metrics(tmp_path, 2)["score"] == (-1.0 if fails else 7.0)
    assert_bit_equal(restore(tmp_path, fresh_state(2))[0], fresh_state(2))


def test_a_kill_between_old_and_new_puts_the_old_back(tmp_path):
    save(tmp_path, {1: None, 2: None})
    clear_way(tmp_path, 2)
    assert saved_steps(tmp_path) == [1]
    assert_bit_equal(restore(tmp_path, fresh_state(2))[0], fresh_state(2))
    assert saved_steps(tmp_path) == [1, 2]


def test_choosing_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoints"):
        choose_step(tmp_path)
    save(tmp_path, {1: 5.0})
    with pytest.raises(UserError, match="no checkpoint of step 9"):
        choose_step(tmp_path, 9)


def test_an_unfinished_save_is_no_checkpoint(tmp_path):
    save(tmp_path, {1: 5.0})
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "1", folder / "2.orbax-checkpoint-tmp")
    assert saved_steps(tmp_path) == [1]
    found, _ = restore(tmp_path, fresh_state(1))
    assert found is not None and found.step == 1


def damage(step, how):
    """Spoils the parameters (or the optimizer) of one saved step."""
    if how == "half a file":
        largest = max((step / "params").rglob("*"), key=lambda f: f.is_file() * f.stat().st_size)
        largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    elif how == "one bit":
        for file in (step / "params").rglob("*"):
            if file.is_file() and file.stat().st_size > 50_000:
                content = bytearray(file.read_bytes())
                content[len(content) // 2] ^= 4
                file.write_bytes(content)
    else:
        shutil.rmtree(step / how)


@pytest.mark.parametrize("how", ["half a file", "params", "optimizer"])
@pytest.mark.parametrize("manifest", ["with its manifest", "without"])
def test_a_damaged_newest_step_is_set_aside_for_the_one_before(tmp_path, how, manifest):
    save(tmp_path, {1: None, 2: None})
    damage(tmp_path / "checkpoints" / "2", how)
    if manifest == "without":  # killed between the commit and the manifest
        (tmp_path / "integrity" / "2.json").unlink()
    assert_bit_equal(restore(tmp_path, fresh_state(1))[0], fresh_state(1))
    assert saved_steps(tmp_path) == [1]
    assert (tmp_path / "checkpoints" / "2.corrupt").is_dir()
    assert (tmp_path / "integrity" / "2.corrupt.json").is_file() == (manifest != "without")


def test_damage_to_all_is_an_error_and_never_a_fresh_start(tmp_path):
    save(tmp_path, {1: None, 2: None})
    for step in "12":
        damage(tmp_path / "checkpoints" / step, "params")
    for _ in range(2):  # the second time there are only those set aside
        error = refusal(restore, tmp_path, fresh_state(2))
        assert error.exit_code == 4
        assert "holds no good checkpoint; damaged are 1.corrupt, 2.corrupt" in str(error)


@pytest.mark.parametrize("own", [PermissionError(13, "Permission denied"), None])
def test_a_step_whose_files_are_whole_is_never_set_aside(tmp_path, monkeypatch, own):
    """One process that cannot read it is at fault, not the step; it may be another than this."""
    save(tmp_path, {1: None, 2: None})

    def told(checkpoints, error):
        asked.append(error)
        return "process 1: too many open files" if len(asked) == 2 else ""

    asked = []
    if own:
        monkeypatch.setattr(checkpoint_module, "read_arrays", raising(own))
    monkeypatch.setattr(Checkpoints, "_any", told)
    error = refusal(restore, tmp_path, fresh_state(2))
    assert error.exit_code == 4 and "though its files are whole" in str(error)
    assert asked[1] is own and saved_steps(tmp_path) == [1, 2]


def test_all_that_a_manifest_names_is_on_the_disk_before_it(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(integrity, "sync", lambda path: synced.append(path))
    save(tmp_path, {1: None})
    manifest = json.loads((tmp_path / "integrity" / "1.json").read_text())
    folder = tmp_path / "checkpoints" / "1"
    assert {folder / name for name in manifest["files"]} <= set(synced)


def test_a_step_without_readable_metrics_cannot_be_the_best(tmp_path):
    save(tmp_path, {1: 5.0, 2: 6.0})
    metrics = tmp_path / "checkpoints" / "2" / "metrics" / "metrics"
    for text in ('{"score": 6', '{"score": 9.0, "val_R1": 3.0}'):
        metrics.write_text(text)
        error = refusal(choose_step, tmp_path)
        assert error.exit_code == 4 and "checkpoint 2 is damaged" in str(error)


@pytest.mark.parametrize(
    ("shapes", "line"),
    [
        (
            {**SHAPES, "norm": {"scale": (32,)}},
            "params/norm/scale: float32 (64,) there, float32 (32,) here",
        ),
        (
            {**SHAPES, "norm": {"scale": (64,), "bias": (64,)}},
            "params/norm/bias: nothing there, float32 (64,) here",
        ),
        ({"norm": SHAPES["norm"]}, "kernel: float32 (2, 64, 256) there, nothing here"),
    ],
)
def test_another_model_is_an_error_with_the_paths(tmp_path, shapes, line):
    save(tmp_path, {2: None})
    error = refusal(restore, tmp_path, fresh_state(2, shapes))
    assert error.exit_code == 2 and line in str(error)
    assert saved_steps(tmp_path) == [2]


def test_another_type_is_an_error_with_the_paths(tmp_path):
    save(tmp_path, {2: None})
    state = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.ndim else x, fresh_state(2))
    error = refusal(restore, tmp_path, state)
    assert error.exit_code == 2
    assert "params/norm/scale: float32 (64,) there, bfloat16 (64,) here" in str(error)


def test_going_back_takes_an_earlier_step_and_sets_the_later_aside(tmp_path):
    save(tmp_path, {1: None, 2: None, 3: None}, keep=3)
    _, shapes, shardings = on_mesh(fresh_state(), 8, 1)
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        assert checkpoints.restore_newest(shapes, shardings, before=1) is None
        assert_bit_equal(checkpoints.restore_newest(shapes, shardings, before=3), fresh_state(2))
        assert saved_steps(tmp_path) == [1, 2]
        checkpoints.save(fresh_state(3), metrics={})
        checkpoints.wait()
    assert saved_steps(tmp_path) == [1, 2, 3]
    assert (tmp_path / "checkpoints" / "3.abandoned").is_dir()


def test_a_state_that_is_not_finite_is_never_saved(tmp_path):
    state = fresh_state(1)
    state.params["norm"]["scale"] = state.params["norm"]["scale"].at[5].set(jnp.nan)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        error = refusal(lambda: checkpoints.save(state, metrics={}))
        assert error.exit_code == 3 and "params/norm/scale" in str(error)
        checkpoints.wait()
    assert saved_steps(tmp_path) == []


def test_parameters_alone_are_read_on_one_device(tmp_path):
    state, shapes, _ = on_mesh(fresh_state(7), 4, 2)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(state, metrics={})
        checkpoints.wait()
    found = restore_params(tmp_path, 7, shapes.params)
    # Of no device: a run on any mesh can start from them.
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))
    assert_bit_equal(found, state.params)
    other = {**shapes.params, "norm": {"scale": jax.ShapeDtypeStruct((32,), np.float32)}}
    error = refusal(restore_params, tmp_path, 7, other)
    assert error.exit_code == 2 and "params/norm/scale: float32 (64,) there" in str(error)


@pytest.mark.parametrize("manifest", ["with its manifest", "without"])
def test_damaged_parameters_are_refused(tmp_path, manifest):
    save(tmp_path, {7: None})
    if manifest == "without":
        (tmp_path / "integrity" / "7.json").unlink()
    damage(tmp_path / "checkpoints" / "7", "one bit")
    error = refusal(restore_params, tmp_path, 7, fresh_state(7).params)
    assert error.exit_code == 4 and "checkpoints/7 is damaged" in str(error)
    assert saved_steps(tmp_path) == [7], "who only reads moves nothing"


@pytest.mark.parametrize("error", [ValueError("RESOURCE_EXHAUSTED: full"), OSError(28, "full")])
def test_a_full_disk_is_an_alarm_and_the_third_time_an_error(tmp_path, monkeypatch, caplog, error):
    save(tmp_path, {1: None})
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        writer = checkpoints._writer
        with monkeypatch.context() as patch:
            patch.setattr(writer, "wait_until_finished", raising(error))
            checkpoints.save(fresh_state(2), metrics={})
            assert "full" in str(refusal(checkpoints.wait))
            patch.setattr(writer, "save", raising(error))
            checkpoints.save(fresh_state(3), metrics={})
            assert "CHECKPOINT 3 COULD NOT BE WRITTEN" in caplog.text
            final = refusal(lambda: checkpoints.save(fresh_state(4), metrics={}))
    assert final.exit_code == 73 and "4 could not be written" in str(final)
    assert "3 times in a row" in str(final) and saved_steps(tmp_path)[0] == 1


def test_a_good_save_ends_the_count_of_failures(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        for step in range(1, 9):
            with monkeypatch.context() as patch:
                if step % 3:
                    patch.setattr(checkpoints._writer, "save", raising(OSError(28, "full")))
                checkpoints.save(fresh_state(step), metrics={})
        assert refusal(checkpoints.wait).exit_code == 73
    assert saved_steps(tmp_path) == [3, 6]


def test_what_is_no_fault_of_the_disk_is_raised(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        monkeypatch.setattr(checkpoints._writer, "save", raising(ValueError("a bug")))
        checkpoints.save(fresh_state(2), metrics={})
        with pytest.raises(ValueError, match="^a bug$"):
            checkpoints.wait()


def raising(error):
    """A function that raises the error, whatever it is called with."""

    def fail(*_, **__):
        raise error

    return fail
