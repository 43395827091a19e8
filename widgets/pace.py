"""When a picture is sent: at once if it may, at most thirty times a second, and always once more at the end.

A loop in a notebook changes a machine thousands of times a second, a server
drops messages beyond a thousand, and nobody sees more than thirty pictures. So a
change only marks its widget. The first mark is sent at once, the next ones
wait for their turn, and one shared thread takes care that the last is never
forgotten. Whatever was marked between two frames travels together.
"""

from __future__ import annotations

import heapq
import logging
import threading
import weakref
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Any

FRAME = 1 / 30  # seconds between two frames of one widget
BYTES = 400_000  # bytes a second that one widget may send, over a longer time; a server stops at 1,000,000


class Clock:
    """Calls functions later, from one thread that ends with the program."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._wake = threading.Condition()
        self._order = count()
        self._thread: threading.Thread | None = None

    def later(self, seconds: float, function: Callable[[], object]) -> bool:
        """Have `function()` called after `seconds`. False where this Python has no threads: then nobody will."""
        with self._wake:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="sevlab-frames", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return False  # a browser's Python
                self._thread = thread
            heapq.heappush(self._due, (monotonic() + seconds, next(self._order), function))
            self._wake.notify()
        return True

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._due or self._due[0][0] > monotonic():
                    self._wake.wait(self._due[0][0] - monotonic() if self._due else None)
                _, _, function = heapq.heappop(self._due)
            try:
                function()
            except Exception:
                logging.getLogger("sevlab.widgets").exception("a frame could not be sent")


CLOCK = Clock()


class Queue:
    """The frames of one widget.

    `send()` sends what is new and returns how many bytes that were, 0 if nothing was
    new. Whoever marks may be the one who calls it, and so may the clock's thread: it takes a lock of its own.
    """

    def __init__(self, send: Callable[[], int], clock: Clock = CLOCK) -> None:
        self._send: Any = weakref.WeakMethod(send) if hasattr(send, "__self__") else lambda: send
        self._clock = clock
        self._lock = threading.Lock()
        self._next = 0.0  # when the next frame may go
        self._waiting = False
        self.frames = 0

    def mark(self) -> None:
        """Something has changed: send it now, or with the next frame."""
        with self._lock:
            if self._waiting:
                return
            wait = self._next - monotonic()
            if wait > 0 and self._clock.later(wait, self._turn):
                self._waiting = True
                return
        self.flush()

    def _turn(self) -> None:
        with self._lock:
            self._waiting = False
        self.flush()

    def flush(self) -> None:
        """Send what is new without waiting for a turn."""
        send = self._send()
        if send is None:
            return  # the widget is gone
        sent = send()
        with self._lock:
            self.frames += bool(sent)
            self._next = monotonic() + max(FRAME, sent / BYTES)
