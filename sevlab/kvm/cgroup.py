"""The misc controller of cgroups: how many ASIDs a tenant may have.

A charge is made at a cgroup and at all above it up to the root, or nowhere. The
root has no limit of its own; what it has is capacity: what the machine offers.

Source: kernel/cgroup/misc.c; kvm.md, C7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from errno import EBUSY, EINVAL, ENOENT, ERANGE

from sevlab.kvm.fd import KvmError, need

MAX = (1 << 64) - 1  # ULONG_MAX: no limit
RESOURCES = ("sev", "sev_es")


class Cgroup:
    """One cgroup: `max`, `current` and `events`, each a dict of resource to number."""

    def __init__(self, name: str, parent: Cgroup | None, capacity: dict[str, int], warn: Callable[[str], object]) -> None:
        self.name = name
        self.parent = parent
        self.capacity = capacity
        self.children: dict[str, Cgroup] = {}
        self.max = dict.fromkeys(RESOURCES, MAX)
        self.current = dict.fromkeys(RESOURCES, 0)
        self.events = dict.fromkeys(RESOURCES, 0)
        self._warn = warn

    @classmethod
    def root(
        cls,
        capacity: Mapping[str, int],
        limits: Mapping[str, Mapping[str, int]] | None = None,
        warn: Callable[[str], object] = lambda line: None,
    ) -> Cgroup:
        """The tree's root. `capacity` is what the machine has; `limits` makes cgroups: path to {resource: max}.

        `warn` gets the lines that the kernel would log. Raises EINVAL for a limit on no known resource.
        """
        root = cls("", None, dict.fromkeys(RESOURCES, 0) | dict(capacity), warn)
        for path, maxima in (limits or {}).items():
            group = root.make(path)
            for resource, number in maxima.items():
                need(resource in RESOURCES and number >= 0, EINVAL)  # no such resource
                group.max[resource] = number
        return root

    # ---------------------------------------------------------- the tree

    @property
    def path(self) -> str:
        return "/" if self.parent is None else f"{self.parent.path.rstrip('/')}/{self.name}"

    def make(self, path: str) -> Cgroup:
        """The cgroup at `path` below this one, made on the way if need be (mkdir -p)."""
        group = self
        for name in filter(None, path.split("/")):
            if name not in group.children:
                group.children[name] = Cgroup(name, group, self.capacity, self._warn)
            group = group.children[name]
        return group

    def find(self, path: str) -> Cgroup:
        """The cgroup at `path` below this one. Raises ENOENT."""
        group: Cgroup | None = self
        for name in filter(None, path.split("/")):
            group = group.children.get(name) if group else None
        if group is None:
            raise KvmError(ENOENT)  # no such cgroup
        return group

    def up(self) -> Iterator[Cgroup]:
        """This cgroup and all above it, the root last."""
        group: Cgroup | None = self
        while group is not None:
            yield group
            group = group.parent

    # ----------------------------------------------------------- charges

    def try_charge(self, resource: str, amount: int = 1) -> None:
        """Charge here and at all above.

        Raises EBUSY at the first level that is full (the event is counted there and above), EINVAL for a
        resource that the machine lacks.
        """
        need(resource in RESOURCES and self.capacity[resource], EINVAL)  # valid_type() && READ_ONCE(misc_res_capacity[type])
        for group in self.up():
            usage = group.current[resource] + amount
            if usage > group.max[resource] or usage > self.capacity[resource]:
                for level in group.up():
                    level.events[resource] += 1
                raise KvmError(EBUSY)  # usage above max or capacity, at this level

        for group in self.up():
            group.current[resource] += amount

    def uncharge(self, resource: str, amount: int = 1) -> None:
        """Give a charge back, here and above. Below zero is a bug of the caller: it happens, with a line in the log."""
        for group in self.up():
            group.current[resource] -= amount
            if group.current[resource] < 0:
                self._warn(f"misc cgroup resource {resource} became less than 0")

    # ------------------------------------------------------------- files

    def read(self, file: str) -> str:
        """The text of misc.capacity (root), misc.current, misc.max or misc.events (all but the root). Raises ENOENT."""
        offered = [resource for resource in RESOURCES if self.capacity[resource]]
        if self.parent is None:
            need(file == "misc.capacity", ENOENT)  # CFTYPE_ONLY_ON_ROOT, CFTYPE_NOT_ON_ROOT
            return "".join(f"{resource} {self.capacity[resource]}\n" for resource in offered)
        need(file in ("misc.current", "misc.max", "misc.events"), ENOENT)  # no such file
        if file == "misc.current":
            return "".join(f"{name} {self.current[name]}\n" for name in RESOURCES if self.capacity[name] or self.current[name])
        if file == "misc.events":
            return "".join(f"{name}.max {self.events[name]}\n" for name in RESOURCES if self.capacity[name] or self.events[name])
        return "".join(f"{name} {'max' if self.max[name] == MAX else self.max[name]}\n" for name in offered)

    def write(self, file: str, text: str) -> None:
        """Write misc.max: "sev 3" or "sev max". A limit below the usage only refuses new charges.

        Raises ENOENT (no such file), EINVAL (not "<resource> <number|max>", or a resource the machine lacks), ERANGE.
        """
        need(self.parent is not None and file in ("misc.max", "misc.current", "misc.events"), ENOENT)  # no such file
        need(file == "misc.max", EINVAL)  # no ->write()
        resource, space, limit = text.strip(" \t\n\v\f\r").partition(" ")
        need(resource and space, EINVAL)  # !token || !buf
        need(resource in RESOURCES, EINVAL)  # type == MISC_CG_RES_TYPES
        number = MAX if limit == "max" else _number(limit)
        need(self.capacity[resource], EINVAL)  # !READ_ONCE(misc_res_capacity[type])

        self.max[resource] = number

    def __repr__(self) -> str:
        return f"<Cgroup {self.path}: {', '.join(f'{name} {self.current[name]}' for name in RESOURCES)}>"

    def __str__(self) -> str:
        return self.path


def _number(text: str) -> int:
    """A number as the kernel reads one: decimal, 0x..., or octal with a leading 0; a plus is allowed. Raises EINVAL, ERANGE."""
    digits = text.removeprefix("+")
    base = 16 if digits[:2].lower() == "0x" else 8 if digits[:1] == "0" and len(digits) > 1 else 10
    digits = digits[2:] if base == 16 else digits
    allowed = "0123456789abcdef"[:base]
    need(digits and all(digit in allowed for digit in digits.lower()), EINVAL)  # kstrtoul()
    number = int(digits, base)
    need(number <= MAX, ERANGE)  # kstrtoul() overflow
    return number
