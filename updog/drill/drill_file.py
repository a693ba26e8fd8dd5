"""What a drill is: a start, steps, and the state in which the node has to end. PURE: TOML to values.

Rules it enforces:

* an unknown action, key or value is a fault; all faults of a file are reported at once, each with its path;
* a drill names kinds of releases, never versions, so that it runs with anybody's releases;
* :data:`KEYS` is the only definition of the keys that an action takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from signpost.sets import ImageKind, Slot
from signpost.toml_file import parse_toml
from updog.drill import Stage
from updog.errors import DrillFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class Kind(StrEnum):
    """What a release is like. ``first`` is the one that runs when a drill begins."""

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
"""At which stage a start of a faulty release fails; kinds that are not here come up and stay up."""


class Action(StrEnum):
    """What a step does."""

    UPDATE = "update"  # install a release and make it boot next
    INSTALL = "install"  # install it only
    APPLY = "apply"  # updog update-apply
    REVERT = "revert"  # updog update-revert
    ROLLBACK = "rollback"  # by an operator: signpost rollback-to-inactive
    JUDGE = "judge"  # let `updog confirm` end
    START = "start"  # switch on
    RESTART = "restart"
    OFF = "off"  # cut the power
    POWER_CYCLE = "power-cycle"  # cut the power and switch on again, so many times
    REACH = "reach"  # do whatever is still needed for this release to run confirmed
    ROAM = "roam"  # update back and forth, cut the power at a random moment, so many times
    DAMAGE = "damage"  # change bytes of an image in a slot while the machine is off
    FLAGS = "flags"  # write flags into the partition table, as an installer or an operator would
    GROW = "grow"  # enlarge the disk


class Moment(StrEnum):
    """When the power is cut or the process killed while a step's command runs."""

    DOWNLOAD = "download"
    WRITE = "write"
    ANYWHERE = "anywhere"


class Until(StrEnum):
    """What a start waits for: the system answers; or it is also confirmed, or was left for the other slot."""

    UP = "up"
    JUDGED = "judged"


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectation:
    """The state in which a node has to be; a None is not checked.

    Attributes:
        running: one of these kinds has to run.
        slot: the slot that runs.
        confirmed: whether the running slot is confirmed.
        standing: as in `updog status`.
        last_rollback: its code.
        denied: the kinds that are denied, no others.
        untouched: slots whose images are as they were when the drill began.
        dead: whether no slot is left to start.
        console: a text that has to be in the console log.
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
class DrillStep:
    """One step: what is done, and the state expected after it. :data:`KEYS` lists the keys of each action."""

    do: Action
    to: Kind | None = None
    exit: int = 0
    cut: Moment | None = None
    kill: Moment | None = None
    until: Until = Until.JUDGED
    times: int = 1
    slot: Slot | None = None
    image: ImageKind | None = None
    priority: int = 0
    tries: int = 0
    successful: bool = False
    mebibytes: int = 0
    then: Expectation | None = None

    def __str__(self) -> str:
        """Return the step in a few words."""
        details = (self.to, self.slot, self.image, self.cut and f"cut {self.cut}", self.kill and "killed")
        return " ".join(str(word) for word in (self.do, *details) if word)


class Opening(NamedTuple):
    """The first command of a drill, if it is not interrupted: several drills may begin with the same one.

    Attributes:
        tries: of the drill. step: without its expectations.
    """

    tries: int
    step: DrillStep


@dataclass(frozen=True, kw_only=True, slots=True)
class Drill:
    """A drill.

    Attributes:
        name: of its file.
        title: one line.
        scenarios: numbers of the scenarios that it covers, such as D97.
        tries: how many starts a new slot gets before it is confirmed.
        rotations: how many versions the node's TUF root is behind the repository's.
        steps: in order.
        end: the state in which the node has to be then.
    """

    name: str
    title: str
    scenarios: tuple[str, ...] = ()
    tries: int = 1
    rotations: int = 0
    steps: tuple[DrillStep, ...]
    end: Expectation

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of releases that it needs."""
        named = {step.to for step in self.steps if step.to} | {Kind.FIRST}
        roaming = {Kind.GOOD} if any(step.do is Action.ROAM for step in self.steps) else set()
        return frozenset(named | roaming)

    @property
    def opening(self) -> Opening | None:
        """Its first command; None if it begins with something else, or interrupts that command."""
        first = self.steps[0]
        if first.do not in {Action.UPDATE, Action.INSTALL} or first.cut or first.kill:
            return None
        return Opening(tries=self.tries, step=replace(first, exit=0, then=None))


class _BadValueError(ValueError):
    """A value that the key cannot take."""


def _one_of(kind: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a converter of one value."""

    def convert(value: Any) -> Any:
        if not isinstance(value, str):
            raise _BadValueError
        return kind(value)

    return convert


def _some_of(kind: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a converter of a list, or of one value alone."""

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
    "image": _one_of(ImageKind),
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
"""The keys that each action needs, and those that it may have; every step may have ``then``."""


def parse(name: str, text: str) -> Drill:
    """Return the drill in a file's text.

    Raises:
        DrillFileError: lists every fault, each with its path.
    """
    document = parse_toml(text, lambda problem: DrillFileError(f"drill {name}: {problem}"))
    reader = _Reader()
    listed = document.pop("steps", [])
    if not isinstance(listed, list):
        reader.faults.append("steps is not a list")
        listed = []
    steps = tuple(reader.step(number, step) for number, step in enumerate(listed, start=1))
    end = reader.expectation("end", document.pop("end", {}))
    values = reader.values("", document, _DRILL)
    if "title" not in values or not steps or end == Expectation():
        reader.faults.append("title, steps and end are needed")
    if reader.faults:
        raise DrillFileError(f"drill {name}: {'; '.join(reader.faults)}")
    return Drill(name=name, steps=tuple(step for step in steps if step), end=end, **values)


@dataclass(kw_only=True, slots=True)
class _Reader:
    """Reads tables into values and collects their faults."""

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
                self.faults.append(f"{place}{key} is unknown")
            except ValueError:
                self.faults.append(f"{place}{key} = {value!r} is not a valid value")
        return values

    def expectation(self, place: str, table: Any) -> Expectation:
        """Return an expectation."""
        return Expectation(**self.values(f"{place}.", table, _EXPECTED))

    def step(self, number: int, table: Any) -> DrillStep | None:
        """Return a step; None if its action is missing, which is then among the faults."""
        place = f"steps[{number}]."
        rest = dict(table) if isinstance(table, dict) else {}
        then = self.expectation(f"{place}then", rest.pop("then")) if "then" in rest else None
        values = self.values(place, rest, _STEP)
        if "do" not in values:
            self.faults.append(f"{place}do is needed")
            return None
        self.faults += _misused(place, values)
        return DrillStep(**values, then=then)


def _misused(place: str, values: Mapping[str, Any]) -> Iterator[str]:
    """Yield as faults the keys that the action needs and lacks, or has and does not take."""
    needed, allowed = KEYS[values["do"]]
    given = values.keys() - {"do"}
    yield from (f"{place}{key} is needed" for key in sorted(needed - given))
    yield from (f"{place}{key} is not a key of {values['do']}" for key in sorted(given - needed - allowed))
