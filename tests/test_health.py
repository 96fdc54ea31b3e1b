"""What a guarded step does, against plain NumPy: nothing, where a step was bad."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ivt_jax.training.checkpoint import Checkpoints, saved_steps
from ivt_jax.training.health import guarded
from ivt_jax.training.state import TrainState, make_step

WINDOW = 8


def run(factors, *, limit=10, sigmas=0.0, inner=None):
    """States and metrics of a linear model whose loss is multiplied by each factor in turn."""
    graphdef, params = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))

    def objective(model, batch, key):
        loss = jnp.mean((model(batch["x"]) - 1.0) ** 2)
        return loss, {"loss": loss}

    inner = inner or optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(1e-2))
    optimizer = guarded(inner, limit=limit, sigmas=sigmas, window=WINDOW)
    params = nnx.to_pure_dict(params)
    state = TrainState(jnp.int32(0), params, optimizer.init(params))
    step = jax.jit(make_step(objective, graphdef, optimizer))
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    states, metrics = [state], []
    for factor in factors:
        batch = {"x": x, "fault": np.full(4, factor, np.float32)}
        state, values = step(state, batch, jax.random.key(0))
        states.append(state)
        metrics.append(values)
    return states, metrics


def counts(state):
    health = state.opt_state.health
    return {name: int(value) for name, value in health._asdict().items() if not value.ndim}


def assert_equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_step_changes_no_bit_of_parameters_and_optimizer(bad):
    states, metrics = run([1, 1, bad, 1])
    assert_equal(states[3].params, states[2].params)
    assert_equal(states[3].opt_state.inner, states[2].opt_state.inner)
    assert int(states[3].step) == 3 and counts(states[3])["skipped"] == 1
    assert [int(values["skipped_in_row"]) for values in metrics] == [0, 0, 1, 0]
    # It is as if the step had not been: the fourth does what the third of another run does.
    undisturbed, _ = run([1, 1, 1])
    assert_equal(states[4].params, undisturbed[3].params)
    assert_equal(states[4].opt_state.inner, undisturbed[3].opt_state.inner)


def test_without_bad_steps_nothing_differs_from_an_unguarded_optimizer():
    optimizer = optax.sgd(0.1, momentum=0.9)
    states, _ = run([1] * 5, inner=optimizer, sigmas=6.0)
    graphdef, params = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(params)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    inner = optimizer.init(params)
    for _ in range(5):
        loss = lambda params: jnp.mean((nnx.merge(graphdef, params)(x) - 1.0) ** 2)  # noqa: E731
        updates, inner = optimizer.update(jax.grad(loss)(params), inner, params)
        params = optax.apply_updates(params, updates)
    for ours, theirs in zip(
        jax.tree.leaves(states[-1].params), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_updates_that_overflow_are_bad_though_loss_and_gradient_are_fine():
    states, metrics = run([1, 1], inner=optax.scale(-1e38))
    assert np.isfinite([float(values["loss"]) for values in metrics]).all()
    assert counts(states[2])["skipped"] == 2
    assert_equal(states[2].params, states[0].params)


def test_the_learning_rate_schedule_goes_on():
    rates = optax.linear_schedule(1.0, 0.0, 10)
    inner = optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(rates))
    states, _ = run([1, np.nan, np.nan, 1], inner=inner)
    adam, schedule = states[-1].opt_state.inner
    assert int(schedule.count) == 4, "the place in the schedule is the step"
    assert int(adam.count) == 2, "the moments have seen two gradients"


def test_a_row_that_is_too_long_trips_and_freezes_everything():
    states, metrics = run([1, np.nan, np.nan, np.nan, 1, np.nan, 1], limit=3)
    assert [int(values["tripped"]) for values in metrics] == [0, 0, 0, 4, 4, 4, 4]
    for later in states[5:]:
        assert_equal(later.opt_state, states[4].opt_state)
        assert_equal(later.params, states[1].params)
    assert counts(states[-1])["in_row"] == 3 and int(states[-1].step) == 7


def spikes_by_hand(metrics, sigmas):
    """Which steps exceed mean + sigmas * deviation of the window, in float64."""
    window, found = [], []
    for values in metrics:
        seen = np.array([values["loss"], values["gradient_norm"]], np.float64)
        limits = np.full(2, np.inf)
        if len(window) >= WINDOW:
            recent = np.array(window[-WINDOW:])
            limits = recent.mean(axis=0) + sigmas * recent.std(axis=0)
        found.append(bool((seen > limits).any()))
        window.append(np.minimum(seen, limits))
    return found


@pytest.mark.parametrize("at", [9, 14])
def test_spikes_are_those_of_the_window(at):
    factors = [1 + 0.1 * np.sin(i) for i in range(20)]
    factors[at] *= 100
    states, metrics = run(factors, sigmas=6.0)
    expected = spikes_by_hand(metrics, 6.0)
    assert expected[at] and sum(expected) <= 3
    assert counts(states[-1])["spikes"] == counts(states[-1])["skipped"] == sum(expected)
    assert_equal(states[at + 1].params, states[at].params)
    plain, _ = run(factors)
    assert counts(plain[-1])["skipped"] == 0, "without the option spikes are learnt from"


def test_the_window_gets_used_to_a_lasting_change():
    factors = [1 + 0.1 * np.sin(i) for i in range(12)] + [2.0] * 12
    states, metrics = run(factors, sigmas=6.0, inner=optax.scale(0.0))
    skipped = [int(values["skipped_in_row"]) > 0 for values in metrics]
    assert skipped == spikes_by_hand(metrics, 6.0)
    assert skipped[12] and not any(skipped[-6:])


def test_spikes_do_not_count_before_the_window_is_full():
    factors = [1.0] * (WINDOW - 1) + [100.0]
    states, _ = run(factors, sigmas=6.0)
    assert counts(states[-1])["spikes"] == 0


def test_a_step_from_before_a_row_of_bad_ones_is_kept(tmp_path):
    states, _ = run([1.0, 1.0, np.nan, np.nan, 1.0])
    kept = []
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for state in states[1:]:
            checkpoints.save(state, metrics={"score": -1.0})
            checkpoints.wait()
            kept.append(saved_steps(tmp_path))
    assert kept == [[1], [2], [2, 3], [2, 4], [5]], "the run may have to go back to step 2"
