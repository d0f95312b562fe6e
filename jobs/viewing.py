"""The page of a job in a browser: from the disk, or served on this machine alone."""

from __future__ import annotations

import os
import webbrowser
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import Fault, MissingInput, WrongSpec
from pipeline.receipt import find_receipt
from pipeline.store.places import Place, is_endless

_OWN_NAMES = ("127.0.0.1", "localhost", "::1")
# The page is whatever lies in the folder: its scripts may work, and may not send what they read anywhere.
_POLICY = "default-src 'self' data: blob: 'unsafe-inline'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"


def open_page(folder: Place, port: int | None = None) -> None:
    """Open the page of a job, or of a comparison, in a browser, and print its address.

    Args:
        port: serve the folder on this port of the loopback interface, until interrupted; 0 for any port that is free.

    Raises: WrongSpec, for an address; MissingInput, where there is no page; Fault, for a port in use.
    """
    if not isinstance(folder, Path):
        raise WrongSpec(f"{folder} is not on this machine, and browsers read files and web servers. Copy the folder here first.")
    pages = [folder / "report" / "index.html", folder / "index.html"]
    page = next((page for page in pages if page.is_file()), None)
    if page is None:
        advice = (
            f"Make it: convscope report {folder}" if find_receipt(folder, any_format=True) else "Name a job's folder: OUT/name."
        )
        raise MissingInput(f"{folder} has no page. {advice}")
    if port is None:
        address = page.resolve().as_uri()
        print(address if webbrowser.open(address) else f"no browser could be started. Open {address}, or use --serve 8000")
        return
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=str(folder)))
    except OSError as error:
        raise Fault(f"port {port} cannot be used ({error.strerror}). Name another, or 0 for any that is free.") from None
    address = f"http://127.0.0.1:{server.server_port}/{page.relative_to(folder)}"
    print(f"serving {address} until Ctrl-C", flush=True)
    webbrowser.open(address)
    try:
        with server:
            server.serve_forever()
    except KeyboardInterrupt:
        return


class _Quiet(SimpleHTTPRequestHandler):
    """Serves one folder to this machine's browsers: no link leads out of it, and no page in it reaches another host."""

    def send_head(self) -> Any:
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if host not in _OWN_NAMES:  # another site's name that was made to mean this machine
            self.send_error(HTTPStatus.FORBIDDEN, "not a name of this machine")
            return None
        root, path = os.path.realpath(self.directory), os.path.realpath(self.translate_path(self.path))
        if os.path.commonpath([root, path]) != root or is_endless(path):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", _POLICY)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """A line for each file would hide the address."""
