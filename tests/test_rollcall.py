"""The roll call at the start of a run on several hosts: sentences instead of hangs and crashes."""

import socket
import threading
import time

import pytest
from runs import free_port

from ivt_jax.errors import UserError
from ivt_jax.training.rollcall import Place, call_roll


def roll(*places: Place) -> dict[int, str]:
    """Calls it in a thread each; the sentence of every caller, "" for none."""
    said = {}

    def one(key: int, place: Place) -> None:
        try:
            call_roll(place)
            said[key] = ""
        except UserError as error:
            said[key] = str(error)

    threads = [threading.Thread(target=one, args=pair) for pair in enumerate(places)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def place(port: int, processes: int, process: int, seconds: int = 30) -> Place:
    return Place(f"127.0.0.1:{port}", processes, process, join_timeout=seconds)


def pass_by(port: int) -> None:
    """Connects as soon as somebody listens, and says nothing of interest."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port)) as peer:
                return peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
        except OSError:
            time.sleep(0.01)
    raise AssertionError("nobody listened")


def test_all_who_come_pass_in_any_order_and_the_port_is_free_again():
    port = free_port()
    places = [place(port, 4, number) for number in (3, 1, 2, 0)]
    passer_by = threading.Thread(target=pass_by, args=(port,))
    passer_by.start()
    last = threading.Timer(1, call_roll, [places.pop(0)])
    last.start()
    assert set(roll(*places).values()) == {""}
    passer_by.join()
    last.join()
    with socket.create_server(("", port)):
        pass


def test_who_is_missing_is_named_to_all():
    port = free_port()
    began = time.monotonic()
    said = roll(place(port, 4, 0, seconds=2), place(port, 4, 2, seconds=30))
    assert "process 1, 3 of 4 did not join within 2 s" in said[0]
    assert said[1] == said[0]
    assert time.monotonic() - began < 20


def test_a_worker_without_process_0_says_where_it_looked():
    port = free_port()
    said = roll(place(port, 2, 1, seconds=1))
    assert f"process 1 could not join process 0 at 127.0.0.1:{port} within 1 s" in said[0]


def test_another_count_is_refused_by_both():
    port = free_port()
    said = roll(place(port, 2, 0), place(port, 3, 1))
    assert "process 1" in said[0] and "--num_processes=3" in said[0] and "=2" in said[0]
    assert said[1] == said[0]


def test_two_of_the_same_number_are_refused():
    port = free_port()
    said = roll(place(port, 3, 0), place(port, 3, 1), place(port, 3, 1))
    assert all("two processes are number 1" in sentence for sentence in said.values())


def test_a_taken_port_is_named():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        said = roll(place(port, 2, 0))
    assert f"cannot listen on port {port}" in said[0]


@pytest.mark.slow
def test_another_service_on_the_port_is_told_from_silence():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def rude():
            peer, _ = other.accept()
            peer.sendall(b"HTTP/1.1 400\r\n\r\n")
            peer.close()

        threading.Thread(target=rude, daemon=True).start()
        said = roll(place(port, 2, 1, seconds=1))
    assert "is not the start of this run" in said[0] or "timed out" in said[0]


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ({"coordinator": "a:1"}, "--coordinator"),
        ({"processes": 2}, "--coordinator"),
        ({"coordinator": "nohost", "processes": 2, "process": 0}, "--coordinator"),
        ({"coordinator": "a:99999", "processes": 2, "process": 0}, "--coordinator"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "--process_id"),
    ],
)
def test_flags_that_do_not_go_together(arguments, flag):
    assert [fault[0] for fault in Place(**arguments).faults()] == [flag]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"processes": 1}, {"coordinator": "[::1]:8476", "processes": 3, "process": 2}],
)
def test_flags_that_do(arguments):
    assert Place(**arguments).faults() == []
