"""Byte ranges of HTTP (RFC 9110 §14) as a server answers them: which bytes, and how it says so. PURE.

For every server of this project: the publisher's loopback server, a drill's, and those of the tests.

Rules:

* one range of bytes is honoured; several ranges, another unit, or a header that cannot be read give the whole
  file, which §14.2 allows;
* a range of which the file has no byte is answered with 416 and the file's size (§15.5.17).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def chosen_range(header: str | None, size: int) -> range | None:
    """Return which bytes of a file of ``size`` bytes a Range header asks for; None for all of them.

    An empty range means that it cannot be satisfied.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return range(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    end = min(int(last) + 1, size) if last else size
    return range(min(int(first), size), end)


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeAnswer:
    """How a server answers a request for a file, or for a part of it.

    Attributes:
        status: 200, 206 or 416. part: the bytes to send; none of them with 416.
        headers: Content-Length, and Content-Range where the answer is not the whole file.
    """

    status: HTTPStatus
    part: range
    headers: dict[str, str]


def range_answer(chosen: range | None, size: int) -> RangeAnswer:
    """Return the answer with the chosen bytes of a file of ``size`` bytes; None chooses all of them."""
    if chosen is None:
        return RangeAnswer(status=HTTPStatus.OK, part=range(size), headers={"Content-Length": str(size)})
    if not chosen:
        return RangeAnswer(
            status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            part=range(0),
            headers={"Content-Range": f"bytes */{size}", "Content-Length": "0"},
        )
    return RangeAnswer(
        status=HTTPStatus.PARTIAL_CONTENT,
        part=chosen,
        headers={
            "Content-Range": f"bytes {chosen.start}-{chosen.stop - 1}/{size}",
            "Content-Length": str(len(chosen)),
        },
    )
