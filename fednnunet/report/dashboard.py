"""Serves the report page to browsers on this machine during a run."""

import contextlib
import email.utils
import logging
import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fednnunet.errors import FednnUNetError
from fednnunet.events.event_files import EVENTS
from fednnunet.report.page_file import REPORT, PageFile

HOST = "127.0.0.1"

logger = logging.getLogger(__name__)

_BEAT_SECONDS = 15.0
_REQUEST_SECONDS = 30.0
"""For a browser to say what it wants, and to take a part of the page."""
_MOST_CONNECTIONS = 64
"""Each has a thread and a descriptor, of which the coordinator needs some itself."""
_BEGIN = b'<html lang="en"'


@contextlib.contextmanager
def report_page(run_dir: Path | None, port: int | None) -> Iterator[PageFile]:
    """Keep the report page of a run folder up to date, and serve it, until the context ends.

    Parameters
    ----------
    run_dir
        The run folder, made if it does not exist; ``None`` if there is none.
    port
        Where to serve the page on the loopback interface; ``None`` if it is not to be served.
    """
    path = kept = None
    if run_dir is not None:
        path, kept = run_dir / REPORT, run_dir / EVENTS
    if port is None:
        with PageFile(path, kept) as page:
            yield page
        return
    with Dashboard(port) as dashboard, PageFile(path, kept, dashboard.show) as page:
        yield page


class Dashboard:
    """Serves the last page that it was shown at ``/``, and tells at ``/events`` whenever there is a new one.

    Only for browsers on this machine: it listens on the loopback interface, and refuses requests that name another
    host, with which a web page from elsewhere could read it (DNS rebinding).

    Parameters
    ----------
    port
        The port; 0 for a free one.

    Raises
    ------
    FednnUNetError
        If the port is in use.
    """

    def __init__(self, port: int) -> None:
        self._changed = threading.Condition()
        self._page = b""
        self._version = 0
        self._at = time.time()
        self._ended = False
        self._server = _listening(port, _handler_for(self))
        self._thread = threading.Thread(target=self._server.serve_forever, name="fednnunet-dashboard", daemon=True)

    def __enter__(self) -> "Dashboard":
        self._thread.start()
        logger.info("Dashboard: %s", self.url)
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Where a browser finds the page."""
        return f"http://{HOST}:{self._server.server_port}/"

    @property
    def hosts(self) -> frozenset[str]:
        """What a browser on this machine may call this server."""
        port = self._server.server_port
        names = ("127.0.0.1", "localhost", "[::1]")
        return frozenset([f"{name}:{port}" for name in names] + (list(names) if port == 80 else []))

    def show(self, page: bytes) -> None:
        """Serve `page` from now on."""
        with self._changed:
            self._page, self._at = page, time.time()
            self._version += 1
            self._changed.notify_all()

    def page(self) -> tuple[bytes, float]:
        """Return the page, which knows that it is served, and when it was made, in seconds since 1970."""
        with self._changed:
            self._changed.wait_for(lambda: self._version > 0 or self._ended, timeout=_BEAT_SECONDS)
            live = b' data-live="%d"' % self._version
            return self._page.replace(_BEGIN, _BEGIN + live, 1), self._at

    def changes(self) -> Iterator[bytes]:
        """Yield server-sent events: the number of each new page, a comment when there was none for long, the end."""
        seen = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._version > seen or self._ended, timeout=_BEAT_SECONDS)  # noqa: B023
                version, ended = self._version, self._ended
            yield b"data: %d\n\n" % version if version > seen else b": beat\n\n"
            seen = version
            if ended:
                yield b"event: end\ndata: \n\n"
                return


def check_dashboard(port: int | None) -> None:
    """Refuse a port on which the dashboard could not be served, before anything starts; ``None`` is no port.

    Raises
    ------
    FednnUNetError
        If it is in use.
    """
    if port is not None:
        _listening(port, BaseHTTPRequestHandler).server_close()


def _listening(port: int, handler: type[BaseHTTPRequestHandler]) -> "_Server":
    try:
        return _Server((HOST, port), handler)
    except OSError as error:
        raise FednnUNetError(
            f"The dashboard cannot be served on port {port} ({error.strerror}): stop the program that uses it, or "
            "choose another with --dashboard PORT."
        ) from error


class _Server(ThreadingHTTPServer):
    """Hangs up on who is one too many."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._room = threading.Semaphore(_MOST_CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def finish_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        try:
            super().finish_request(request, client_address)
        finally:
            self._room.release()


def _handler_for(dashboard: Dashboard) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version = "fednnunet"
        sys_version = ""
        timeout = _REQUEST_SECONDS

        def do_GET(self) -> None:
            if self.headers.get("Host", "").lower() not in dashboard.hosts:
                self.send_error(HTTPStatus.FORBIDDEN, "This page is for browsers on this machine only")
            elif self.path == "/":
                self._send_page()
            elif self.path == "/events":
                self._send_changes()
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _send_page(self) -> None:
            page, at = dashboard.page()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.send_header("Last-Modified", email.utils.formatdate(at, usegmt=True))
            self._end_headers()
            with contextlib.suppress(OSError):  # the browser has gone
                self.wfile.write(page)

        def _send_changes(self) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/event-stream")
            self._end_headers()
            with contextlib.suppress(OSError):
                for change in dashboard.changes():
                    self.wfile.write(change)
                    self.wfile.flush()

        def _end_headers(self) -> None:
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cross-Origin-Resource-Policy", "same-origin")
            self.send_header("X-Frame-Options", "DENY")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            logger.debug(format, *args)

    return Handler
