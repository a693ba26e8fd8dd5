"""What a drill is: a start, steps, and how the node has to end. PURE: TOML to values.

Rules it enforces:

* an unknown action, key or value is a fault, and all faults of a file are told at once, each by its place;
* a drill names kinds of releases, never versions, so that anybody can play it with theirs;
* :data:`KEYS` is the one home of what an action takes.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from signpost.sets import Slot
from updog.drill import Stage
from updog.errors import DrillFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class Kind(StrEnum):
    """What a release is like. ``first`` is the one a drill's node runs when the drill begins."""

    FIRST = "first"
    GOOD = "good"
    BAD_KERNEL = "bad-kernel"
    PANIC = "panic"
    NO_INIT = "no-init"
    UNHEALTHY = "unhealthy"
    HANGING = "hanging"


FAULTS: Mapping[Kind, Stage] = MappingProxyType(
    {
        Kind.BAD_KERNEL: Stage.KERNEL,
        Kind.PANIC: Stage.PANIC,
        Kind.NO_INIT: Stage.INIT,
        Kind.UNHEALTHY: Stage.HEALTH,
        Kind.HANGING: Stage.HANG,
    }
)
"""Where a start of a faulty release ends; those that are not here come up and stay."""


class Action(StrEnum):
    """What a step does."""

    UPDATE = "update"  # install a release and make it boot next
    INSTALL = "install"  # install it only
    APPLY = "apply"
    REVERT = "revert"
    ROLLBACK = "rollback"  # by hand: signpost rollback-to-inactive
    JUDGE = "judge"  # let `updog confirm` come to its end
    START = "start"  # switch on
    RESTART = "restart"
    OFF = "off"  # unplug
    POWER_CYCLE = "power-cycle"  # cut the power and switch on again, so many times
    REACH = "reach"  # do what is left to do for this release to run confirmed
    ROAM = "roam"  # update back and forth, with the power cut anywhere, so many times
    DAMAGE = "damage"  # change bytes of an image in a slot, behind everybody's back
    FLAGS = "flags"  # put flags into the table, as an installer or a person with a tool would
    GROW = "grow"  # enlarge the disk


class Moment(StrEnum):
    """When power is cut, or the process killed, while a step's command runs."""

    DOWNLOAD = "download"
    WRITE = "write"
    ANYWHERE = "anywhere"


class Until(StrEnum):
    """What a start waits for: the system answers, or the node has also confirmed it or gone back."""

    UP = "up"
    JUDGED = "judged"


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectation:
    """How a node has to be; None is not looked at.

    Attributes:
        running: what may run, one of these kinds.
        slot: the slot that runs.
        confirmed: whether the running slot is.
        standing: of `updog status`.
        last_rollback: its code.
        denied: the kinds that are denied, all of them.
        untouched: slots whose images are as they were when the drill began.
        dead: whether the machine has nothing left to start.
        console: a text that has to be on the console.
    """

    running: tuple[Kind, ...] | None = None
    slot: Slot | None = None
    confirmed: bool | None = None
    standing: str | None = None
    last_rollback: str | None = None
    denied: tuple[Kind, ...] | None = None
    untouched: tuple[Slot, ...] | None = None
    dead: bool | None = None
    console: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step: what is done, and how the node has to be after it. :data:`KEYS` says who uses what."""

    do: Action
    to: Kind | None = None
    exit: int = 0
    cut: Moment | None = None
    kill: Moment | None = None
    until: Until = Until.JUDGED
    times: int = 1
    slot: Slot | None = None
    image: str | None = None
    priority: int = 0
    tries: int = 0
    successful: bool = False
    mebibytes: int = 0
    then: Expectation | None = None

    def __str__(self) -> str:
        """Say the step in a few words."""
        details = (self.to, self.slot, self.image, self.cut and f"cut {self.cut}", self.kill and "killed")
        return " ".join(str(word) for word in (self.do, *details) if word)


class Opening(NamedTuple):
    """What a drill begins with and others may begin with, too: a command that is let end.

    Attributes:
        tries: of the drill. step: without what is expected of it.
    """

    tries: int
    step: Step


@dataclass(frozen=True, kw_only=True, slots=True)
class Drill:
    """A drill.

    Attributes:
        name: of its file.
        title: one line for people.
        scenarios: numbers it plays, such as D97.
        tries: how many starts a new slot gets before it is confirmed.
        rotations: how many versions the node's TUF root is behind the repository's.
        steps: in order.
        end: how the node has to be then.
    """

    name: str
    title: str
    scenarios: tuple[str, ...] = ()
    tries: int = 1
    rotations: int = 0
    steps: tuple[Step, ...]
    end: Expectation

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of releases it is played with."""
        named = {step.to for step in self.steps if step.to} | {Kind.FIRST}
        roaming = {Kind.GOOD} if any(step.do is Action.ROAM for step in self.steps) else set()
        return frozenset(named | roaming)

    @property
    def opening(self) -> Opening | None:
        """What it begins with; None if that is no command, or one that is interrupted at random."""
        first = self.steps[0]
        if first.do not in {Action.UPDATE, Action.INSTALL} or first.cut or first.kill:
            return None
        return Opening(tries=self.tries, step=replace(first, exit=0, then=None))


class _BadValueError(ValueError):
    """A value that the key cannot take."""


def _one_of(kind: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a converter for one value."""

    def convert(value: Any) -> Any:
        if not isinstance(value, str):
            raise _BadValueError
        return kind(value)

    return convert


def _some_of(kind: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a converter for a list, or one value alone."""

    def convert(value: Any) -> Any:
        return tuple(kind(item) for item in (value if isinstance(value, list) else [value]))

    return convert


def _exactly(kind: type) -> Callable[[Any], Any]:
    """Return a converter that takes a value of this type as it is."""

    def convert(value: Any) -> Any:
        if type(value) is not kind:
            raise _BadValueError
        return value

    return convert


def _role(value: Any) -> str:
    if value not in {"boot", "root", "hash"}:
        raise _BadValueError
    return str(value)


_EXPECTED: Mapping[str, Callable[[Any], Any]] = {
    "running": _some_of(Kind),
    "slot": _one_of(Slot),
    "confirmed": _exactly(bool),
    "standing": _exactly(str),
    "last_rollback": _exactly(str),
    "denied": _some_of(Kind),
    "untouched": _some_of(Slot),
    "dead": _exactly(bool),
    "console": _exactly(str),
}

_STEP: Mapping[str, Callable[[Any], Any]] = {
    "do": _one_of(Action),
    "to": _one_of(Kind),
    "exit": _exactly(int),
    "cut": _one_of(Moment),
    "kill": _one_of(Moment),
    "until": _one_of(Until),
    "times": _exactly(int),
    "slot": _one_of(Slot),
    "image": _role,
    "priority": _exactly(int),
    "tries": _exactly(int),
    "successful": _exactly(bool),
    "mebibytes": _exactly(int),
}

_DRILL: Mapping[str, Callable[[Any], Any]] = {
    "title": _exactly(str),
    "scenarios": _some_of(str),
    "tries": _exactly(int),
    "rotations": _exactly(int),
}

_ORDER = frozenset({"exit", "cut", "kill"})

KEYS: Mapping[Action, tuple[frozenset[str], frozenset[str]]] = MappingProxyType(
    {
        Action.UPDATE: (frozenset({"to"}), _ORDER),
        Action.INSTALL: (frozenset({"to"}), _ORDER),
        Action.APPLY: (frozenset(), _ORDER),
        Action.REVERT: (frozenset(), _ORDER),
        Action.ROLLBACK: (frozenset(), _ORDER),
        Action.JUDGE: (frozenset(), frozenset({"cut", "kill"})),
        Action.START: (frozenset(), frozenset({"until"})),
        Action.RESTART: (frozenset(), frozenset({"until"})),
        Action.OFF: (frozenset(), frozenset()),
        Action.POWER_CYCLE: (frozenset(), frozenset({"until", "times"})),
        Action.REACH: (frozenset({"to"}), frozenset()),
        Action.ROAM: (frozenset({"times"}), frozenset()),
        Action.DAMAGE: (frozenset({"slot", "image"}), frozenset()),
        Action.FLAGS: (frozenset({"slot"}), frozenset({"priority", "tries", "successful"})),
        Action.GROW: (frozenset({"mebibytes"}), frozenset()),
    }
)
"""What each action must be given, and what it may; every step may have ``then``."""


def parse(name: str, text: str) -> Drill:
    """Return the drill in a file's text.

    Raises:
        DrillFileError: lists every fault, each by its place.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DrillFileError(f"drill {name}: not TOML: {error}") from error
    reader = _Reader()
    steps = tuple(reader.step(number, step) for number, step in enumerate(document.pop("steps", ()), start=1))
    end = reader.expectation("end", document.pop("end", {}))
    values = reader.values("", document, _DRILL)
    if "title" not in values or not steps or end == Expectation():
        reader.faults.append("title, steps and end are needed")
    if reader.faults:
        raise DrillFileError(f"drill {name}: {'; '.join(reader.faults)}")
    return Drill(name=name, steps=tuple(step for step in steps if step), end=end, **values)


@dataclass(kw_only=True, slots=True)
class _Reader:
    """Reads tables into values and keeps what is wrong with them."""

    faults: list[str] = field(default_factory=list)

    def values(self, place: str, table: Any, known: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
        """Return the converted values of a table."""
        if not isinstance(table, dict):
            self.faults.append(f"{place} is not a table")
            return {}
        values = {}
        for key, value in table.items():
            try:
                values[key] = known[key](value)
            except KeyError:
                self.faults.append(f"{place}{key} is not known here")
            except ValueError:
                self.faults.append(f"{place}{key} = {value!r} is not possible")
        return values

    def expectation(self, place: str, table: Any) -> Expectation:
        """Return an expectation."""
        return Expectation(**self.values(f"{place}.", table, _EXPECTED))

    def step(self, number: int, table: Any) -> Step | None:
        """Return a step; None, with faults, if it is none."""
        place = f"steps[{number}]."
        rest = dict(table) if isinstance(table, dict) else {}
        then = self.expectation(f"{place}then", rest.pop("then")) if "then" in rest else None
        values = self.values(place, rest, _STEP)
        if "do" not in values:
            self.faults.append(f"{place}do is needed")
            return None
        self.faults += _misused(place, values)
        return Step(**values, then=then)


def _misused(place: str, values: Mapping[str, Any]) -> Iterator[str]:
    """Tell which keys the action needs and lacks, or has and does not take."""
    needed, allowed = KEYS[values["do"]]
    given = values.keys() - {"do"}
    yield from (f"{place}{key} is needed" for key in sorted(needed - given))
    yield from (f"{place}{key} is not for {values['do']}" for key in sorted(given - needed - allowed))
