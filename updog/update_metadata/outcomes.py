"""Outcome lines: the result of an update on one node, reported by the node and read by the fleet's tools.

Rules:
* A line is a flat set of members, written as a JSON object on its own line or as the query of a URL. So the
  access log of any web server is a collection of them, and no special server is needed.
* A line that is sent again is the same line: :attr:`OutcomeLine.identity` finds duplicates.
* Unknown members are ignored; an unknown code counts neither as good nor as bad.
* A node is named by a pseudonym from which its machine-id cannot be computed (:func:`pseudonym`).
"""

from __future__ import annotations

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
"""The member that marks a JSON object or a query as an outcome line; its value is the format."""

MAX_LINE_BYTES = 4096
"""The longest line that is read: ten members of a few dozen bytes each, and room for later members."""

MAX_NAME = 128
"""Characters of a variant, an architecture, a channel, a code or a cause."""

NodeName = NewType("NodeName", str)
"""A node's pseudonym, 32 lower-case hexadecimal digits."""

_NODE = re.compile(r"[0-9a-f]{32}")
_APPLICATION = b"updog outcome line 1"


class Count(Enum):
    """How a line counts for the release it names."""

    GOOD = "good"
    BAD = "bad"
    NEITHER = "neither"


COUNTS = {
    "confirmed": Count.GOOD,
    "boot-failed": Count.BAD,
    "health-check-failed": Count.BAD,
    "rolled-back-by-hand": Count.NEITHER,
}
"""The codes that nodes report, and how each counts; any other counts as :attr:`Count.NEITHER`."""


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
    Member(name="node", form="32 hexadecimal digits", meaning="pseudonym of the node; never changes"),
    Member(name="variant", form="text", meaning="what the node runs"),
    Member(name="arch", form="text", meaning="the node's architecture"),
    Member(name="channel", form="text", meaning="the channel that the node follows", optional=True),
    Member(name="seed", form="0 to 2047", meaning="the node's place in the waves"),
    Member(name="code", form="text", meaning="what happened, one of the [codes](codes.md)"),
    Member(name="cause", form="text", meaning="why, if it is known", optional=True),
    Member(name="from", form="version", meaning="the version that ran before", optional=True),
    Member(name="to", form="version", meaning="the version that was tried, and confirmed or left again"),
)


class OutcomeError(FaultsError):
    """The text is not an outcome line."""

    code = "outcome-invalid"
    document = "the outcome line"
    default_next_step = (
        "Skip lines that are not outcome lines: those have at least the members "
        f"{', '.join(member.name for member in MEMBERS if not member.optional)}."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class OutcomeLine:
    """The result of updating one node to ``to``. Members: :data:`MEMBERS` (``from`` is ``before`` here)."""

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
        """What two lines have in common if they are the same line, sent twice."""
        return (self.node, self.time, self.code)

    @property
    def count(self) -> Count:
        """How the line counts for ``to``."""
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
        """Parse one JSON object. Raises OutcomeError with every fault."""
        data = text.encode(errors="replace") if isinstance(text, str) else text
        try:
            return _parse_members(fields.decode_json(data, limit=MAX_LINE_BYTES))
        except FaultsError as error:
            raise OutcomeError(error.faults) from error

    @classmethod
    def from_query(cls, query: str) -> OutcomeLine:
        """Parse the query of a URL. Raises OutcomeError with every fault; a duplicate member is one."""
        try:
            return _parse_members(_decode_query(query))
        except FaultsError as error:
            raise OutcomeError(error.faults) from error


def is_outcome_query(query: str) -> bool:
    """Return whether a request's query claims to be an outcome line. Fast; does not validate it."""
    return query.startswith(f"{MARKER}=") or f"&{MARKER}=" in query


def pseudonym(machine_id: str) -> NodeName:
    """Return the name under which a node reports; it does not reveal the machine-id.

    machine-id(5) asks applications not to disclose the id, but a keyed hash of it with an application's key.

    Raises:
        SeedError: the machine has no machine-id yet.
    """
    identity = machine_id.strip()
    if identity in {"", "uninitialized"}:
        raise SeedError("the machine has no machine-id yet to report under")
    import hashlib  # 3.5 MiB; the agent that waits for months does not need it
    import hmac

    return NodeName(hmac.new(identity.encode(), _APPLICATION, hashlib.sha256).hexdigest()[:32])


def _decode_query(query: str) -> dict[str, Any]:
    """Return a query's parameters with the types that they have in JSON. Raises FaultsError."""
    if len(query) > MAX_LINE_BYTES:
        raise fields.invalid(f"{len(query)} characters; the limit is {MAX_LINE_BYTES}")
    members: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=4 * len(MEMBERS))
    except ValueError as error:
        raise fields.invalid(f"not a query: {error}") from error
    for name, value in pairs:
        if name in members:
            raise fields.invalid(f"duplicate parameter {fields.excerpt(name)}")
        members[name] = value
    for name in (MARKER, "seed"):
        if members.get(name, "").isascii() and members.get(name, "").isdigit():
            members[name] = int(members[name])
    return members


def _parse_members(value: object) -> OutcomeLine:
    """Parse the members of a line. Raises FaultsError."""
    members = fields.Fields(value)
    members.required(MARKER, _format)
    time, node = members.required("time", fields.time), members.required("node", _node)
    variant, arch = members.required("variant", _name), members.required("arch", _name)
    channel = members.optional("channel", _name)
    seed = members.required("seed", fields.whole_number_in(0, MAX_SEED - 1))
    code, cause = members.required("code", _name), members.optional("cause", _name)
    before, to = members.optional("from", fields.version), members.required("to", fields.version)
    members.raise_faults()
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
        raise fields.invalid(f"format {fields.excerpt(value)} is not {FORMAT}")
    return FORMAT


def _node(value: object) -> NodeName:
    if not isinstance(value, str) or not _NODE.fullmatch(value):
        raise fields.invalid(f"expected 32 hexadecimal digits, found {fields.excerpt(value)}")
    return NodeName(value)


def _name(value: object) -> str:
    name = fields.text(value)
    if len(name) > MAX_NAME:
        raise fields.invalid(f"{len(name)} characters; the limit is {MAX_NAME}")
    return name
