"""A TCP line to a server that breaks off answers."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any


class BrokenLine:
    """A TCP line to a server; each of the first `cuts` answers longer than `after` bytes breaks off there."""

    def __init__(self, target: Any, after: Any, cuts: Any) -> None:
        self.target, self.after, self.cuts, self.broken = target, after, cuts, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.target)
            threading.Thread(target=self._ask, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _ask(self, client: Any, server: Any) -> None:
        try:
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _answer(self, server: Any, client: Any) -> None:
        sent = 0
        try:
            while data := server.recv(65536):
                if self.broken < self.cuts and sent + len(data) > self.after:
                    self.broken += 1
                    client.sendall(data[: max(0, self.after - sent)])
                    break
                client.sendall(data)
                sent += len(data)
        except OSError:
            pass
        for end in (client, server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._listener.close()
