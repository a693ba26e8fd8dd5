"""PURE: the steps of a practice ceremony: the same commands as in a real one, with throw-away keys.

Rules:

* it is a list of command lines, run by the program's own command line in a temporary folder: exactly the
  commands of a real ceremony are rehearsed;
* it has the holders and the threshold of the given repository, or anna, boris and clara, two of three;
* it includes commands that must be refused, and the two emergencies: a lost root key, a leaked online key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from repo_tools.config import ONLINE_ROLES
from repo_tools.keys.holders import holders

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tuf.api.metadata import Root

REPOSITORY = "repository"
_DONE, _FAILED = 0, 1


@dataclass(frozen=True, kw_only=True, slots=True)
class RootKeys:
    """The names of the root keys' holders, all different, and how many of them must sign."""

    names: tuple[str, ...] = ("anna", "boris", "clara")
    threshold: int = 2

    @property
    def spare(self) -> int:
        """How many root keys can be lost before no new root can be signed."""
        return len(self.names) - self.threshold


@dataclass(frozen=True, kw_only=True, slots=True)
class RehearsalStep:
    """One command of a rehearsal.

    Attributes:
        act: the part of the rehearsal. words: as typed after ``repo-tools``. status: required exit status.
        append_to: a file that the command's output is appended to; empty for none.
    """

    act: str
    words: tuple[str, ...]
    status: int = _DONE
    append_to: str = ""


def root_keys_of(root: Root) -> RootKeys:
    """Return the holders and the threshold of a root's keys; a holder without a name gets a number."""
    members = holders(root, "root")
    names = [holder.name or f"holder-{number}" for number, holder in enumerate(members, 1)]
    unique = [f"{name}-{at}" if name in names[:at] else name for at, name in enumerate(names)]
    return RootKeys(names=tuple(unique), threshold=root.roles["root"].threshold)


def script(root_keys: RootKeys) -> list[RehearsalStep]:
    """Return the commands of a rehearsal, in order."""
    steps = [*_new_repository(root_keys)]
    if root_keys.spare:
        steps += _lost_key(root_keys)
    steps += _leaked_keys(root_keys, version=3 if root_keys.spare else 2)
    return steps


def _new_repository(root_keys: RootKeys) -> Iterator[RehearsalStep]:
    act = "a new repository"
    files = [f"root-{number}" for number in range(1, len(root_keys.names) + 1)]
    for file in (*files, *ONLINE_ROLES):
        yield _make_key(act, file)
    keys = [f"root={name},{file}.pub.pem" for name, file in zip(root_keys.names, files, strict=True)]
    keys += [f"{role}={role},{role}.pub.pem" for role in ONLINE_ROLES]
    words = [word for key in keys for word in ("--key", key)]
    yield RehearsalStep(
        act=act, words=("root", "init", "1.json", "--threshold", f"root={root_keys.threshold}", *words)
    )
    yield RehearsalStep(act=act, words=("root", "verify", "1.json"), status=_FAILED)
    yield from _sign(act, "1.json", files[: root_keys.threshold])
    yield RehearsalStep(act=act, words=("root", "verify", "1.json"))
    signers = [word for role in ONLINE_ROLES for word in ("--signer", f"{role}=file2:{role}.pem")]
    yield RehearsalStep(act=act, words=("new", REPOSITORY, "--root", "1.json", *signers))


def _lost_key(root_keys: RootKeys) -> Iterator[RehearsalStep]:
    """Yield the replacement of the first holder's key, signed by the new key and enough of the others."""
    name = root_keys.names[0]
    act = f"{name} has lost a root key"
    others = [f"root-{number}" for number in range(2, len(root_keys.names) + 1)][: root_keys.threshold]
    yield _make_key(act, "root-new")
    yield _in_repository(act, "root", "rotate", "2.json", name, name, "root-new.pub.pem")
    yield from _sign(act, "2.json", ["root-new", *others[:-1]])
    yield _in_repository(act, "root", "publish", "2.json", status=_FAILED)
    yield from _sign(act, "2.json", others[-1:])
    yield _in_repository(act, "root", "verify", "2.json")
    yield _in_repository(act, "root", "publish", "2.json")


def _leaked_keys(root_keys: RootKeys, version: int) -> Iterator[RehearsalStep]:
    """Yield the replacement of all online keys."""
    act, file = "the online keys have leaked", f"{version}.json"
    files = [f"root-{number}" for number in range(1, len(root_keys.names) + 1)]
    if root_keys.spare:
        files[0] = "root-new"
    for role in ONLINE_ROLES:
        yield _make_key(act, f"{role}-new")
        yield _in_repository(act, "root", "rotate", file, role, role, f"{role}-new.pub.pem", "--role", role)
    yield from _sign(act, file, files[: root_keys.threshold])
    for role in ONLINE_ROLES:
        words = ("--repo", REPOSITORY, "root", "public-key", f"file2:../{role}-new.pem", "--signer-line")
        yield RehearsalStep(act=act, words=words, append_to=f"{REPOSITORY}/repo.toml")
    yield _in_repository(act, "root", "publish", file)
    yield _in_repository(act, "validate")
    yield _in_repository(act, "root", "show")


def _make_key(act: str, file: str) -> RehearsalStep:
    return RehearsalStep(act=act, words=("root", "make-key", f"{file}.pem", "--no-passphrase"))


def _in_repository(act: str, *words: str, status: int = _DONE) -> RehearsalStep:
    return RehearsalStep(act=act, words=("--repo", REPOSITORY, *words), status=status)


def _sign(act: str, proposal: str, files: Sequence[str]) -> Iterator[RehearsalStep]:
    for file in files:
        yield RehearsalStep(act=act, words=("root", "sign", proposal, "--key", f"file2:{file}.pem", "--yes"))
