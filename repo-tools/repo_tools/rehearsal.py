"""PURE: a ceremony for practice, as the very commands of a real one, with keys that are thrown away.

Rules:

* it is a list of command lines, run by the program's own command line in a temporary folder: nothing is
  rehearsed that is not what the real day will bring;
* it has the holders and the threshold of the repository at hand, or anna, boris and clara, two of three;
* what must be refused is part of it, and so are the two bad days: a lost root key, a leaked online key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from repo_tools.holders import holders

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tuf.api.metadata import Root

ONLINE = ("targets", "snapshot", "timestamp")
REPOSITORY = "repository"
_DONE, _FAILED = 0, 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Who holds the root keys, and how many of them must sign. Names are all different."""

    names: tuple[str, ...] = ("anna", "boris", "clara")
    threshold: int = 2

    @property
    def spare(self) -> int:
        """How many root keys can be lost before no root can follow any more."""
        return len(self.names) - self.threshold


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One command of a rehearsal.

    Attributes:
        act: what it belongs to. words: as typed after ``repo-tools``. status: in which it must end.
        into: a file that what it prints is added to, where one is.
    """

    act: str
    words: tuple[str, ...]
    status: int = _DONE
    into: str = ""


def shape_of(root: Root) -> Shape:
    """Return who would take part if this root were changed; a holder without a name goes by a number."""
    members = holders(root, "root")
    names = [holder.name or f"holder-{number}" for number, holder in enumerate(members, 1)]
    unique = [f"{name}-{at}" if name in names[:at] else name for at, name in enumerate(names)]
    return Shape(names=tuple(unique), threshold=root.roles["root"].threshold)


def script(shape: Shape) -> list[Step]:
    """Return the commands of a rehearsal, in order."""
    steps = [*_beginning(shape)]
    if shape.spare:
        steps += _lost_key(shape)
    steps += _leaked_key(shape, version=3 if shape.spare else 2)
    return steps


def _beginning(shape: Shape) -> Iterator[Step]:
    act = "a new repository"
    files = [f"root-{number}" for number in range(1, len(shape.names) + 1)]
    for file in (*files, *ONLINE):
        yield _key(act, file)
    keys = [f"root={name},{file}.pub.pem" for name, file in zip(shape.names, files, strict=True)]
    keys += [f"{role}={role},{role}.pub.pem" for role in ONLINE]
    words = [word for key in keys for word in ("--key", key)]
    yield Step(act=act, words=("root", "init", "1.json", "--threshold", f"root={shape.threshold}", *words))
    yield Step(act=act, words=("root", "verify", "1.json"), status=_FAILED)
    yield from _signatures(act, "1.json", files[: shape.threshold])
    yield Step(act=act, words=("root", "verify", "1.json"))
    signers = [word for role in ONLINE for word in ("--signer", f"{role}=file2:{role}.pem")]
    yield Step(act=act, words=("new", REPOSITORY, "--root", "1.json", *signers))


def _lost_key(shape: Shape) -> Iterator[Step]:
    """Yield the first holder's key being replaced: by a threshold of the others, and the new one."""
    act = f"{shape.names[0]} has lost a root key"
    others = [f"root-{number}" for number in range(2, len(shape.names) + 1)][: shape.threshold]
    yield _key(act, "root-new")
    yield _of_repository(act, "root", "rotate", "2.json", shape.names[0], shape.names[0], "root-new.pub.pem")
    yield from _signatures(act, "2.json", ["root-new", *others[:-1]])
    yield _of_repository(act, "root", "publish", "2.json", status=_FAILED)
    yield from _signatures(act, "2.json", others[-1:])
    yield _of_repository(act, "root", "verify", "2.json")
    yield _of_repository(act, "root", "publish", "2.json")


def _leaked_key(shape: Shape, version: int) -> Iterator[Step]:
    act, file = "the online keys have leaked", f"{version}.json"
    files = [f"root-{number}" for number in range(1, len(shape.names) + 1)]
    if shape.spare:
        files[0] = "root-new"
    for role in ONLINE:
        yield _key(act, f"{role}-new")
        yield _of_repository(act, "root", "rotate", file, role, role, f"{role}-new.pub.pem", "--role", role)
    yield from _signatures(act, file, files[: shape.threshold])
    for role in ONLINE:
        words = ("root", "public-key", f"file2:../{role}-new.pem", "--signer-line")
        yield Step(act=act, words=("--repo", REPOSITORY, *words), into=f"{REPOSITORY}/repo.toml")
    yield _of_repository(act, "root", "publish", file)
    yield _of_repository(act, "validate")
    yield _of_repository(act, "root", "show")


def _key(act: str, file: str) -> Step:
    return Step(act=act, words=("root", "make-key", f"{file}.pem", "--no-passphrase"))


def _of_repository(act: str, *words: str, status: int = _DONE) -> Step:
    return Step(act=act, words=("--repo", REPOSITORY, *words), status=status)


def _signatures(act: str, proposal: str, files: Sequence[str]) -> Iterator[Step]:
    for file in files:
        yield Step(act=act, words=("root", "sign", proposal, "--key", f"file2:{file}.pem", "--yes"))
