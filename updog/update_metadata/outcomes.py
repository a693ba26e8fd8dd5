"""Outcome lines: what became of an update on one node, as the node reports it and the fleet's tools read it.

Rules:
* One line is a flat set of members, the same as a JSON object on a line of its own and as the query of a URL,
  so that any web server's access log is a collection of them and no server of ours is needed.
* A line that is sent again is the same line: :attr:`OutcomeLine.identity` tells repetitions apart.
* Members that a reader does not know are ignored; a code unknown to it counts neither for nor against.
* A node is named by a pseudonym that cannot be turned back into its machine-id (:func:`pseudonym`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NewType
from urllib.parse import parse_qsl, urlencode

from updog.update_metadata import fields
from updog.update_metadata.errors import FaultsError, SeedError
from updog.update_metadata.seeds import MAX_SEED
from updog.update_metadata.times import format_time

if TYPE_CHECKING:
    from datetime import datetime
    from typing import Any

    from updog.update_metadata.version import Version

FORMAT = 1
MARKER = "outcome"
"""The member that makes a JSON object or a query an outcome line; its value is the format."""

MAX_LINE_BYTES = 4096
"""The longest line that is read: ten members of a few dozen bytes each, and room for more to come."""

MAX_NAME = 128
"""Characters of a variant, an architecture, a channel, a code or a cause."""

NodeName = NewType("NodeName", str)
"""32 lower-case hexadecimal digits that stand for one node."""

_NODE = re.compile(r"[0-9a-f]{32}")
_APPLICATION = b"updog outcome line 1"


class Count(Enum):
    """What a line says about the release it names."""

    GOOD = "good"
    BAD = "bad"
    NEITHER = "neither"


COUNTS = {
    "confirmed": Count.GOOD,
    "boot-failed": Count.BAD,
    "health-check-failed": Count.BAD,
    "rolled-back-by-hand": Count.NEITHER,
}
"""The codes that nodes report and how each counts; any other counts as :attr:`Count.NEITHER`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One member of a line, as docs/reference/outcome-line.md lists it."""

    name: str
    form: str
    meaning: str
    optional: bool = False


MEMBERS = (
    Member(name=MARKER, form="1", meaning="the format of the line"),
    Member(name="time", form="RFC 3339, UTC, whole seconds", meaning="when the node recorded it"),
    Member(name="node", form="32 hexadecimal digits", meaning="pseudonym of the node, the same for ever"),
    Member(name="variant", form="text", meaning="what the node runs"),
    Member(name="arch", form="text", meaning="the node's architecture"),
    Member(name="channel", form="text", meaning="the channel that it follows", optional=True),
    Member(name="seed", form="0 to 2047", meaning="its place in the waves"),
    Member(name="code", form="text", meaning="what happened, a code of [codes](codes.md)"),
    Member(name="cause", form="text", meaning="why, as far as it is known", optional=True),
    Member(name="from", form="version", meaning="what ran before", optional=True),
    Member(name="to", form="version", meaning="what was tried, and confirmed or left again"),
)


class OutcomeError(FaultsError):
    """The text is not an outcome line."""

    code = "outcome-invalid"
    document = "the outcome line"
    default_next_step = "docs/reference/outcome-line.md lists its members; skip lines that are none."


@dataclass(frozen=True, kw_only=True, slots=True)
class OutcomeLine:
    """What became of ``to`` on one node. Members: :data:`MEMBERS` (``from`` is ``before`` here)."""

    time: datetime
    node: NodeName
    variant: str
    arch: str
    channel: str | None = None
    seed: int
    code: str
    cause: str | None = None
    before: Version | None
    to: Version

    @property
    def identity(self) -> tuple[str, datetime, str]:
        """What two lines share if they are one, sent twice."""
        return (self.node, self.time, self.code)

    @property
    def count(self) -> Count:
        """What the line says about ``to``."""
        return COUNTS.get(self.code, Count.NEITHER)

    def members(self) -> dict[str, str | int]:
        """Return the members that have a value, in the order of :data:`MEMBERS`."""
        values: dict[str, str | int | None] = {
            MARKER: FORMAT,
            "time": format_time(self.time),
            "node": self.node,
            "variant": self.variant,
            "arch": self.arch,
            "channel": self.channel,
            "seed": self.seed,
            "code": self.code,
            "cause": self.cause,
            "from": str(self.before) if self.before else None,
            "to": str(self.to),
        }
        return {name: value for name, value in values.items() if value is not None}

    def to_json(self) -> str:
        """Return the line as one JSON object, without an end of line."""
        return json.dumps(self.members(), separators=(",", ":"))

    def to_query(self) -> str:
        """Return the line as the query of a URL, without its question mark."""
        return urlencode(self.members())

    @classmethod
    def from_json(cls, text: str | bytes) -> OutcomeLine:
        """Read one JSON object. Raises OutcomeError with every fault."""
        data = text.encode(errors="replace") if isinstance(text, str) else text
        try:
            return _line(fields.decoded(data, most=MAX_LINE_BYTES))
        except FaultsError as error:
            raise OutcomeError(error.faults) from error

    @classmethod
    def from_query(cls, query: str) -> OutcomeLine:
        """Read the query of a URL. Raises OutcomeError with every fault, a repeated member among them."""
        try:
            return _line(_from_text(query))
        except FaultsError as error:
            raise OutcomeError(error.faults) from error


def is_outcome_query(query: str) -> bool:
    """Tell, quickly, whether a request's query claims to be an outcome line."""
    return query.startswith(f"{MARKER}=") or f"&{MARKER}=" in query


def pseudonym(machine_id: str) -> NodeName:
    """Return the name a node reports under: keyed by its machine-id, which it does not reveal.

    machine-id(5) asks not to pass the id on, and to hash it with a key of the application instead.

    Raises:
        SeedError: the machine has no id yet.
    """
    identity = machine_id.strip()
    if identity in {"", "uninitialized"}:
        raise SeedError("the machine has no id yet to report under")
    return NodeName(hmac.new(identity.encode(), _APPLICATION, hashlib.sha256).hexdigest()[:32])


def _from_text(query: str) -> dict[str, Any]:
    """Return a query's parameters with the types that they have in JSON."""
    if len(query) > MAX_LINE_BYTES:
        raise fields.wrong(f"{len(query)} characters; the limit is {MAX_LINE_BYTES}")
    members: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=4 * len(MEMBERS))
    except ValueError as error:
        raise fields.wrong(f"not a query: {error}") from error
    for name, value in pairs:
        if name in members:
            raise fields.wrong(f"{fields.shown(name)} is there twice")
        members[name] = value
    for name in (MARKER, "seed"):
        if members.get(name, "").isascii() and members.get(name, "").isdigit():
            members[name] = int(members[name])
    return members


def _line(value: object) -> OutcomeLine:
    """Read the members of a line. Raises FaultsError."""
    members = fields.Fields(value)
    members.take(MARKER, _format)
    time, node = members.take("time", fields.time), members.take("node", _node)
    variant, arch = members.take("variant", _name), members.take("arch", _name)
    channel, seed = members.maybe("channel", _name), members.take("seed", _seed)
    code, cause = members.take("code", _name), members.maybe("cause", _name)
    before, to = members.maybe("from", fields.version), members.take("to", fields.version)
    members.done()
    return OutcomeLine(
        time=time,
        node=node,
        variant=variant,
        arch=arch,
        channel=channel,
        seed=seed,
        code=code,
        cause=cause,
        before=before,
        to=to,
    )


def _format(value: object) -> int:
    if fields.whole_number(value) != FORMAT:
        raise fields.wrong(f"format {fields.shown(value)} is not {FORMAT}")
    return FORMAT


def _node(value: object) -> NodeName:
    if not isinstance(value, str) or not _NODE.fullmatch(value):
        raise fields.wrong(f"expected 32 hexadecimal digits, found {fields.shown(value)}")
    return NodeName(value)


def _name(value: object) -> str:
    name = fields.text(value)
    if len(name) > MAX_NAME:
        raise fields.wrong(f"{len(name)} characters; the limit is {MAX_NAME}")
    return name


def _seed(value: object) -> int:
    seed = fields.whole_number(value)
    if not 0 <= seed < MAX_SEED:
        raise fields.wrong(f"{seed} is not from 0 to {MAX_SEED - 1}")
    return seed
