"""A signal reaches a main thread that only waits, whichever thread the system gave it to."""

import signal
import threading
import time

import pytest

from ivt_jax.training.signals import Interrupted, StopRequest


def test_a_signal_given_to_another_thread_wakes_a_main_thread_that_waits():
    def strike_itself():
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGURG)
    with StopRequest(lambda text, code: pytest.fail(text)) as stop:
        stop.begin()
        began = time.monotonic()
        with pytest.raises(Interrupted), stop.waiting():
            threading.Timer(0.2, strike_itself).start()
            threading.Event().wait(60)
        assert time.monotonic() - began < 50, "it woke by itself"
        assert stop.signal == signal.SIGTERM
        with pytest.raises(Interrupted), stop.waiting():
            pytest.fail("it waits although it has to stop")
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGURG))
