"""A save that failed says so once, and stands in the way of no later one."""

from test_checkpoint import forgive_abandoned_reads as _forgive  # noqa: F401
from test_checkpoint import fresh_state, raising, refusal

from ivt_jax.training import steps
from ivt_jax.training.checkpoint import Checkpoints


def test_a_save_hears_nothing_of_one_before(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        wait, held = checkpoints._writer.wait_until_finished, []

        def wait_and_raise():
            wait()
            if held:  # Orbax keeps an error of each of its parts until it is asked
                raise held.pop()

        monkeypatch.setattr(checkpoints._writer, "wait_until_finished", wait_and_raise)
        checkpoints.save(fresh_state(1), metrics={})
        checkpoints.wait()
        held += [OSError(28, "full")] * 3
        checkpoints.save(fresh_state(2), metrics={})
        checkpoints.wait()
    assert steps.manifest_file(tmp_path, 2).is_file()


def test_a_disk_without_room_is_found_before_processes_meet(tmp_path, monkeypatch, caplog):
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(steps.Path, "mkdir", raising(OSError(28, "No space left on device")))
            patch.setattr(checkpoints._writer, "save", raising(AssertionError("too late")))
            checkpoints.save(fresh_state(1), metrics={})
            assert "CHECKPOINT 1 COULD NOT BE WRITTEN" in caplog.text
            assert "No space left" in str(refusal(checkpoints.wait))
        checkpoints.save(fresh_state(2), metrics={})
        checkpoints.wait()
    assert steps.saved_steps(tmp_path) == [2]
    assert not list((tmp_path / "checkpoints").glob("trial*"))
