"""Frames: the first at once, then thirty a second, the last always."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest
from sevlab_widgets.pace import BYTES, FRAME, Clock, Queue


class Picture:
    """Something that changes, and what was sent of it."""

    def __init__(self, size: int = 40) -> None:
        self.value = 0
        self.sent: list[tuple[float, int]] = []
        self.size = size
        self.queue = Queue(self.send)

    def send(self) -> int:
        if self.sent and self.sent[-1][1] == self.value:
            return 0
        self.sent.append((time.monotonic(), self.value))
        return self.size

    def change(self) -> None:
        self.value += 1
        self.queue.mark()


def wait_for(condition, seconds=3.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


def test_a_single_change_is_sent_before_mark_returns():
    picture = Picture()

    picture.change()

    assert [value for _, value in picture.sent] == [1]


def test_three_thousand_changes_become_a_few_frames_and_the_last_is_among_them():
    picture = Picture()
    start = time.monotonic()

    for _ in range(3000):
        picture.change()
    wait_for(lambda: picture.sent[-1][1] == 3000)

    assert len(picture.sent) <= 3 + (time.monotonic() - start) / FRAME


def test_frames_keep_their_distance():
    picture = Picture()
    end = time.monotonic() + 0.4

    while time.monotonic() < end:
        picture.change()
        time.sleep(0.001)
    wait_for(lambda: picture.sent[-1][1] == picture.value)

    moments = [moment for moment, _ in picture.sent]
    assert len(moments) <= 0.4 / FRAME + 3
    assert min(b - a for a, b in pairwise(moments)) > FRAME * 0.8


def test_a_large_frame_is_followed_by_a_longer_pause():
    """A server that gets more than a megabyte a second drops what comes next."""
    picture = Picture(size=int(BYTES * 0.15))

    picture.change()
    picture.change()
    wait_for(lambda: len(picture.sent) == 2)

    assert picture.sent[1][0] - picture.sent[0][0] >= 0.14


def test_changes_from_many_threads_end_in_one_last_frame():
    picture = Picture()
    lock = threading.Lock()

    def work() -> None:
        for _ in range(200):
            with lock:
                picture.change()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    wait_for(lambda: picture.sent[-1][1] == 800)


def test_nothing_new_is_no_frame():
    picture = Picture()
    picture.change()

    picture.queue.flush()

    assert picture.queue.frames == 1


def test_where_there_are_no_threads_every_change_is_sent_at_once():
    class NoThreads(Clock):
        def later(self, seconds, function):
            return False

    picture = Picture()
    picture.queue = Queue(picture.send, NoThreads())

    for _ in range(5):
        picture.change()

    assert [value for _, value in picture.sent] == [1, 2, 3, 4, 5]


def test_a_widget_that_is_gone_is_not_called():
    picture = Picture()
    queue = picture.queue
    del picture

    queue.flush()

    assert queue.frames == 0


@pytest.mark.parametrize("count", [1, 5])
def test_the_clock_calls_in_the_order_of_time_not_of_asking(count):
    clock, seen = Clock(), []

    for i in range(count):
        clock.later(0.05 * (count - i), lambda i=i: seen.append(i))
    wait_for(lambda: len(seen) == count)

    assert seen == list(reversed(range(count)))


def test_a_function_that_raises_is_logged_and_the_clock_goes_on(caplog):
    clock, seen = Clock(), []

    clock.later(0.0, lambda: 1 // 0)
    clock.later(0.05, lambda: seen.append("still here"))
    wait_for(lambda: seen)

    assert "a frame could not be sent" in caplog.text
