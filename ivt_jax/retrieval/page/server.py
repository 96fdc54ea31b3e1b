"""`python -m ivt_jax serve GALLERY`: the search page, on this machine."""

import argparse
import ipaddress
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from ivt_jax.errors import UserError

PORT = 8000
LOCAL = ("127.0.0.1", "localhost", "[::1]")  # Host headers of this machine


def main(argv: Sequence[str]) -> int:
    """Runs the command until Ctrl-C; returns the exit code."""
    arguments = _parser().parse_args(argv)
    if not arguments.gallery.is_dir():
        raise UserError(
            f"there is no folder {arguments.gallery}; make a gallery with `python -m ivt_jax index "
            f"PHOTOS --run=RUN --out={arguments.gallery}`"
        )
    hosts = allowed_hosts(arguments.host, remote=arguments.allow_remote)
    listener = listen(arguments.host, arguments.port)
    try:
        from ivt_jax.retrieval.page.running import run_server
    except ModuleNotFoundError as error:
        raise UserError(
            f"the page needs the package {error.name}: pip install fastapi uvicorn, "
            "or the extra `serve`"
        ) from error

    def opened():
        from ivt_jax.retrieval.page.opening import open_engine  # JAX, while the page is up already
        from ivt_jax.training.compilation_cache import use_compilation_cache

        use_compilation_cache(shortest=0.1)
        return open_engine(arguments.gallery, arguments.run)

    address, port = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    print(f"http://{shown}:{port} searches {arguments.gallery} (Ctrl-C stops it)", flush=True)
    if arguments.allow_remote:
        print(
            "warning: everybody who reaches this port can search and see these photos; there is "
            "no password (docs/privacy.md)",
            file=sys.stderr,
        )
    run_server(opened, listener, hosts=hosts)
    print("stopped")
    return 0


def is_local(host: str) -> bool:
    """Whether a name or address means this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def allowed_hosts(host: str, *, remote: bool) -> list[str]:
    """The Host headers that are answered: names of this machine, so no stranger's name works.

    Raises UserError if `host` is reached by others and `remote` is not given.
    """
    if is_local(host):
        return [*LOCAL, host]
    if not remote:
        raise UserError(
            f"--host={host} would show the photos to everybody who reaches this machine. If that "
            "is meant, add --allow-remote; docs/serve.md has the safer way, an SSH tunnel"
        )
    names = {host, socket.gethostname(), socket.getfqdn()}
    names |= {str(entry[4][0]) for entry in _addresses(socket.gethostname())}
    return [*LOCAL, *sorted(f"[{name}]" if ":" in name else name for name in names)]


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; raises UserError if the port is taken or the host is not ours."""
    found = _addresses(host)
    if not found:
        raise UserError(f"--host={host} is no address of this machine")
    family, *_, address = found[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address[0], port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(
            f"cannot listen on {host}, port {port}: {error}. Another server may run there; choose "
            f"another port, as --port={PORT + 1}"
        ) from error
    return listener


def _addresses(host: str) -> list[tuple]:
    try:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ivt_jax serve", description=__doc__)
    parser.add_argument("gallery", type=Path, help="folder that `python -m ivt_jax index` made")
    parser.add_argument("--run", help="the model, if it is not where it was at indexing")
    parser.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}; 0: a free one")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    parser.add_argument(
        "--allow-remote", action="store_true", help="let other machines in; there is no password"
    )
    return parser
