"""Frame: what all widgets have in common. A widget is a picture of rows; it knows no SEV.

An author writes one Python file and, where the browser must do more than show
and select, one ES module and one style sheet of the same name. Two bases:

* `Drawing` (drawing.py) for diagrams: the author writes `picture(width, size)`,
  an SVG made in Python, and has cursor, selection, flashes, drag, choices and
  export for nothing, with no JavaScript.
* `Frame` for all else: `FILES = ("pages", "pagemap")` adds these .js and .css files,
  and `MAKER` names the function in them that makes the picture; its contract
  stands at the head of frame.js.

What the author of a subclass writes:

    FILES       names of the .js and .css files to add, in order; MAKER, a function of theirs
    KEYS        ((keys, what they do), ...), shown under "?"
    describe()  the picture in whole sentences: text/plain, screen readers, tests
    table()     (heads, rows): the table view and the CSV file
    svg()       the picture as SVG text: export, and where no front end runs
    full()      (fields, buffers): everything a new view needs
    changes()   (fields, buffers) since the last frame; None: nothing; default: full()
    empty       a sentence while there is nothing to draw, else ""
    draw_at(n)  make the picture that of journal entry n (None: now); call mark()
    fed(rows)   new trace rows of the host: take them in, call mark()
    got_KIND(view, **fields)    a message {kind: KIND} from the module
    find(words) what may be selected and is called so: where the "look at:" of a card leads

What it calls: `mark()` after a change (cheap; frames go out at most thirty times
a second and the last always does), inside `with self.lock` if the change is more
than one assignment; `call(what, function, *args)` for a notebook's callback, whose exception
becomes a sentence in the widget. Never a trait with `sync=True`: a saved notebook stays small.

What a notebook sees: `entry` (the journal entry drawn, None is now) and
`selected`, both traits to observe or set; `link(a, b)`; `describe()`, `table()`, `svg()`.

A host is any object with `n`, the number of its last journal entry (or `gate.n`), and
if it likes `trace` with `watch` and `rows`. Without one a widget has no controls.

On the wire: {kind: "frame"} carries title, facts and keys, {kind: "full"} and {kind: "delta"}
the picture; the fields kind, seq, to, selected, n and entry are the frame's own. A view says
"ready" whenever it is drawn, so that a reloaded tab fills itself again; it asks anew when
a `seq` is missing, and a "ping" after the last frame finds out whether that one was lost.
"""

from __future__ import annotations

import csv
import io
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import anywidget
import traitlets as t
from sevlab_widgets import pace
from sevlab_widgets.program import program

PICTURE = 4096  # bytes of a picture that a live widget leaves in the notebook, for readers without a front end
VIEWS = 6  # the newest so many views are remembered; older ones are reloaded tabs
ROWS = 1000  # rows of a table view; the CSV file has all

Message = tuple[dict[str, Any], list[bytes]]
Table = tuple[list[str], list[list[Any]]]


class Frame(anywidget.AnyWidget):
    """A picture in its frame: title, body, status line, controls. See the head of this file."""

    FILES: ClassVar[tuple[str, ...]] = ()
    MAKER: ClassVar[str] = ""
    KEYS: ClassVar[tuple[tuple[str, str], ...]] = ()
    KIND: ClassVar[str]  # the class as it was written; traitlets gives each instance one of its own
    HASH: ClassVar[str]
    CODE: ClassVar[list[bytes]]

    entry = t.Int(None, allow_none=True, help="the journal entry that is drawn; None is now")
    selected = t.Any(None, help="what is selected in the picture")
    empty = ""
    _unwatch: Callable[[], None] = staticmethod(lambda: None)

    def __init_subclass__(cls, **keywords: Any) -> None:
        if "_esm" in vars(cls):  # made by traitlets for an instance: it has its class's program
            return super().__init_subclass__(**keywords)
        cls.KIND = f"{cls.__module__}.{cls.__qualname__}"
        files = ["frame", "files"]
        for parent in reversed(cls.__mro__):
            files += [name for name in vars(parent).get("FILES", ()) if name not in files]
        cls._esm, cls.HASH, cls.CODE = program(files, cls.MAKER)
        super().__init_subclass__(**keywords)

    def __init__(self, *, title: str = "", facts: Sequence[str] = (), host: Any = None, imaginary: str = "") -> None:
        self.lock = threading.RLock()
        self.title = title
        self.facts = tuple(facts)
        self.host = host
        self.imaginary = imaginary
        self.oldest = int(getattr(getattr(host, "gate", None), "made", 0))  # the entry that made the host: before it is nothing
        self.trace = getattr(host, "trace", None)
        self._views: dict[str, tuple[int, str]] = {}
        self._pushed = False
        self._seq = self._asked = 0
        self._selector = ""  # the view whose selection is being told
        self._heard: dict[str, int] = {}  # the number of the last choice that was heard of each view
        self._chrome: dict[str, Any] = {}
        self._queue = pace.Queue(self._frame)
        super().__init__()
        self.on_msg(self._receive)
        if self.trace is not None and hasattr(self.trace, "watch"):
            self._unwatch = self.trace.watch(self._fed)

    # ------------------------------------------------- what an author writes

    def describe(self) -> str:
        """The picture in whole sentences."""
        return " · ".join([self.title, *self.facts])

    def table(self) -> Table:
        """The picture as (heads, rows)."""
        return [], []

    def svg(self) -> str:
        """The picture as SVG text, or "" when there is none."""
        return ""

    def full(self) -> Message:
        """Everything that a new view needs."""
        return {}, []

    def changes(self) -> Message | None:
        """What is new since the last frame; None when nothing is."""
        return self.full()

    def chrome(self) -> dict[str, Any]:
        """What stands around the picture: the fields of the "frame" message."""
        return {
            "widget": self.KIND.rpartition(".")[2],
            "title": self.title,
            "facts": list(self.facts),
            "imaginary": self.imaginary,
            "empty": self.empty,
            "keys": [list(pair) for pair in self.KEYS],
            "host": self.now is not None,
            "files": True,
        }

    def draw_at(self, n: int | None) -> None:
        """Make the picture that of journal entry `n`; None is now."""

    def fed(self, rows: list[dict[str, Any]]) -> None:
        """Take in what has happened."""

    def still(self, limit: int | None = None) -> dict[str, Any]:
        """A picture for readers without a front end, by media type; {} when it would pass `limit` bytes."""
        text = self.svg()
        return {"image/svg+xml": text} if text and (limit is None or len(text) <= limit) else {}

    # ------------------------------------------------- what an author calls

    @property
    def now(self) -> int | None:
        """The number of the host's last journal entry; None without a host."""
        n = getattr(self.host, "n", None)
        return getattr(getattr(self.host, "gate", None), "n", None) if n is None else int(n)

    def mark(self) -> None:
        """Something has changed: the views get it with the next frame."""
        if self.watched:
            self._queue.mark()

    @property
    def watched(self) -> bool:
        """Whether anybody looks. While nobody does, changes need not be kept: the first view gets the full picture."""
        return bool(self._views or self._pushed)

    def call(self, what: str, function: Callable[..., Any] | None, *args: Any) -> Any:
        """A callback's answer; when it raises, the widget says so and the answer is None."""
        if function is None:
            return None
        try:
            return function(*args)
        except Exception as error:
            self.fail(what, error)
            return None

    def fail(self, what: str, error: BaseException) -> None:
        """Put an exception into the widget's message area: one sentence, the traceback folded below."""
        why = getattr(error, "why", None)
        said = f"{error}" + (f" ({why})" if why else "")
        sentence = f"{what} raised {type(error).__name__}{': ' if said else ''}{said}"
        details = "".join(traceback.format_exception(error))
        self.post({"kind": "error", "say": sentence + ("" if sentence[-1:] in ".!?" else "."), "details": details})

    def post(self, fields: dict[str, Any], buffers: Sequence[bytes] = (), to: str | None = None) -> int:
        """Send one message to the views, or to one of them; how many bytes that were."""
        try:
            self.send({**fields, "to": to} if to else fields, list(buffers))
        except Exception as error:
            if not type(error).__module__.startswith("zmq"):
                raise
            return 0  # the kernel is closing its sockets: nobody is left to look
        # From 7.4 on ipykernel hands a view's next message to the thread that last sent one: to a cell under way,
        # whose end it would then wait for. Without this note it goes where the front end asked.
        if self.comm is not None:
            self.comm.__dict__.pop("_reply_subshell_id", None)
        return len(str(fields)) + sum(map(len, buffers))

    def close(self) -> None:
        """Take the widget off every page and off its host."""
        unwatch, self._unwatch = self._unwatch, lambda: None  # a widget that was closed is closed again when it is forgotten
        unwatch()
        super().close()

    # ------------------------------------------------- frames

    def _time(self) -> dict[str, Any]:
        now = self.now
        entry = {} if self.entry is None else {"entry": self.entry}
        return {} if now is None else {"n": now, "oldest": self.oldest, **entry}

    def _frame(self) -> int:
        """Send what is new: to be called by the queue."""
        with self.lock:
            chrome, sent = self.chrome(), 0
            if chrome != self._chrome:
                self._chrome = chrome
                sent += self.post({"kind": "frame", **chrome, **self._time()})
            message = self.changes()
            if message is not None:
                fields, buffers = message
                self._seq += 1
                sent += self.post({"kind": "delta", **fields, "seq": self._seq, **self._time()}, buffers)
                self._ask()
            return sent

    def _ask(self) -> None:
        """In a second, when no frame has followed, ask the views whether the last one arrived."""
        if not self._asked:
            self._asked = self._seq
            pace.CLOCK.later(1.0, self._ping)

    def _ping(self) -> None:
        with self.lock:
            quiet, self._asked = self._asked == self._seq, 0
            if quiet:
                self.post({"kind": "ping", "seq": self._seq})
            else:
                self._ask()

    def _fill(self, view: str | None) -> None:
        """Give one view (None: all that listen) frame and picture."""
        with self.lock:
            self._chrome = self.chrome()
            fields, buffers = self.full()
            self.post({"kind": "frame", **self._chrome, **self._time()}, to=view)
            chosen = {"selected": self.selected, "heard": dict(self._heard)}
            self.post({"kind": "full", **fields, "seq": self._seq, **chosen, **self._time()}, buffers, to=view)

    def _push(self, wait: float) -> None:
        """Nobody has said "ready": the kernel may be busy with the very cell that shows the widget. Send without being asked."""
        if not self._views and self.comm is not None:
            self._pushed = True
            self.got_code()
            self._fill(None)
            if wait < 3:
                pace.CLOCK.later(wait, lambda: self._push(3 * wait))

    # ------------------------------------------------- messages from the views

    def _receive(self, _: Any, content: dict[str, Any], buffers: Any) -> None:
        fields = dict(content)
        kind = str(fields.pop("kind", ""))
        if kind == "select" and "nth" in fields:  # views count their choices: what crosses a newer one is not to undo it
            self._heard[fields["view"]] = fields.pop("nth")
        handler = getattr(self, f"got_{kind}", None)
        try:
            if handler is not None:  # what is not for us may be another program's
                handler(**fields)
        except Exception as error:
            self.fail(f"What follows “{kind}”", error)

    def got_code(self, view: str = "") -> None:
        """A page opens its first widget of this class: send the program."""
        self.post({"kind": "code", "hash": self.HASH}, self.CODE)

    def got_ready(self, view: str, width: int, size: str) -> None:
        """A view was drawn, for the first time or again."""
        self._see(view, width, size)
        self._fill(view)

    def _see(self, view: str, width: int, size: str) -> None:
        with self.lock:
            self._views.pop(view, None)
            self._views[view] = int(width), size
            for gone in list(self._views)[:-VIEWS]:
                del self._views[gone]
                self._heard.pop(gone, None)

    def got_ack(self, view: str, seq: int) -> None:
        """A view says which frame it has; one that lags behind is filled again."""
        if seq < self._seq and not self._asked:
            self._fill(view)

    def got_select(self, view: str, value: Any) -> None:
        """Something was selected in a view."""
        self._selector = view
        try:
            self.selected = value
        finally:
            self._selector = ""

    def got_seek(self, view: str, n: int | None) -> None:
        """The scrubber, or a step; the answer says that the next may be asked for."""
        self.entry = n
        self.post({"kind": "sought", **self._time()}, to=view)

    def look_at(self, words: str) -> None:
        """Select what `words` name, and bring the widget before the reader's eyes."""
        self.selected = self.find(words)
        self.post({"kind": "look"})

    def find(self, words: str) -> Any:
        """What may be selected and is called `words`."""
        return words

    def means(self, value: Any) -> str:
        """What a selected thing is called in pictures of every kind, as "vm 3"; "" for what only this one has."""
        return ""

    def light(self, name: str) -> None:
        """Select what `name` means here, if anything does: it was selected in a picture of another kind."""

    def got_table(self, view: str) -> None:
        """The table view was opened."""
        heads, rows = self.table()
        self.post({"kind": "rows", "heads": heads, "rows": rows[:ROWS], "all": len(rows)}, to=view)

    def got_export(self, view: str, what: str) -> None:
        """A file was asked for; a PNG is made by the view, from the SVG."""
        text, kind = (self.csv(), "text/csv") if what == "csv" else (self.svg(), "image/svg+xml")
        name = "".join(c if c.isalnum() else "-" for c in self.title.lower()).strip("-") or type(self).__name__.lower()
        self.post({"kind": "file", "what": what, "name": f"{name}.{what}", "type": kind}, [text.encode(errors="replace")], to=view)

    # ------------------------------------------------- time

    @t.validate("entry")
    def _within(self, proposal: Any) -> int | None:
        n, now = proposal["value"], self.now
        if n is None or now is None or n >= now:
            return None
        return max(self.oldest, int(n))

    @t.observe("selected")
    def _selected(self, change: Any) -> None:
        if self.watched:
            self.post({"kind": "selected", "value": change["new"], "by": self._selector, "heard": dict(self._heard)})

    @t.observe("entry")
    def _moved(self, change: Any) -> None:
        with self.lock:
            self.draw_at(change["new"])
        self.mark()

    def _fed(self, rows: list[dict[str, Any]]) -> None:
        with self.lock:
            self.call("The trace", self.fed, rows)
        self.mark()

    # ------------------------------------------------- where no front end runs

    def csv(self) -> str:
        """The table as a CSV file."""
        file = io.StringIO()
        heads, rows = self.table()
        csv.writer(file, lineterminator="\n").writerows([heads, *rows])
        return file.getvalue()

    def __repr__(self) -> str:
        return self.describe()

    def open(self) -> None:
        """Open the way to the browser; a page that is built without one (SEVLAB_STATIC=1) shall load no script for it."""
        if not static():
            super().open()

    def _repr_mimebundle_(self, **keywords: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        pictures = self.still(None if static() else PICTURE)
        alt = {kind: {"alt": self.describe()} for kind in pictures}
        if static():
            return {"text/plain": self.describe(), **pictures}, alt
        data, metadata = super()._repr_mimebundle_(**keywords) or ({}, {})
        pace.CLOCK.later(0.3, lambda: self._push(1.0))
        return {**data, **pictures}, {**metadata, **alt}


def static() -> bool:
    """Whether pictures stand for the widgets: nobody listens, as when the book is built."""
    return os.environ.get("SEVLAB_STATIC") == "1"
