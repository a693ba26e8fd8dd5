"""What is mounted where, as the kernel says (proc_pid_mountinfo(5)). PURE."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEVICE, _POINT = 2, 4  # fields
_ESCAPED = re.compile(rb"\\([0-7]{3})")  # how a space or a line break in a name is written


def mounts(mountinfo: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the device (``major:minor``) and the mount point of each line that has both."""
    for line in mountinfo.splitlines():
        fields = line.split(b" ")
        if len(fields) > _POINT:
            point = _ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), fields[_POINT])
            yield fields[_DEVICE], point
