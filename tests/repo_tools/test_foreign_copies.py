"""Copies of other publishers' repositories: missing roots, roles below roles, hashed bins."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from tuf.api.metadata import DelegatedRole, Delegations, SuccinctRoles, Targets

from repo_tools.copies.clone import copy, verify_source
from repo_tools.errors import BrokenRepositoryError
from repo_tools.repository.published import published_targets
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep.check import check
from tests.support.repositories import tree_digest
from tests.support.tuf_repositories import TufRepository, in_days, signer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from repo_tools.copies.clone import Copied

NOW = in_days(0)


def _publish(repository: TufRepository) -> None:
    """Publish once more, without the files of the first time: a copy does not include them."""
    repository.publish()
    for role in ("snapshot", "targets"):
        del repository.files[f"metadata/1.{role}.json"]


def _mirror(source: Path, to: Path, root: bytes | None = None, *, delete: bool = False) -> Copied:
    verified = verify_source(FolderSource(source), to, trusted_root=root, now=NOW)
    return copy(verified, to, published_targets(verified.chain), delete=delete)


def _files(folder: Path) -> dict[str, bytes]:
    files = (path for part in ("metadata", "targets") for path in (folder / part).rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()}


def _root(folder: Path, version: int) -> bytes:
    return (folder / "metadata" / f"{version}.root.json").read_bytes()


def _roots(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "metadata").glob("*.root.json"))


# -- roots -------------------------------------------------------------------------------------------------


@pytest.fixture
def rotated(tmp_path: Path) -> Path:
    """Return a repository with four roots, each with other keys."""
    repository = TufRepository({"a": b"content"})
    repository.rotate("root", times=3)
    repository.publish()
    return repository.write_to(tmp_path / "source")


def test_what_readers_of_the_old_metadata_fetch_is_kept_where_the_first_roots_are_lost(
    tmp_path: Path,
) -> None:
    repository = TufRepository({"a": b"old"})
    repository.rotate("timestamp")
    repository.publish()
    del repository.files["metadata/1.root.json"]
    root = repository.files["metadata/2.root.json"]
    _mirror(repository.write_to(tmp_path / "source"), tmp_path / "copy", root)
    old = TufRepository.target_path("a", b"old")
    repository.put("a", b"new")
    repository.publish()
    done = _mirror(repository.write_to(tmp_path / "source"), tmp_path / "copy", delete=True)
    assert done.removed == ()
    assert (tmp_path / "copy" / old).read_bytes() == b"old"
    repository.publish()
    done = _mirror(repository.write_to(tmp_path / "source"), tmp_path / "copy", delete=True)
    assert done.removed == (old,)


@pytest.mark.parametrize("damage", ["gone", "unreadable"])
def test_a_copy_starts_at_its_trusted_root_where_the_first_ones_are_lost(
    rotated: Path, tmp_path: Path, damage: str
) -> None:
    trusted = _root(rotated, 3)
    for version in (1, 2):
        path = rotated / "metadata" / f"{version}.root.json"
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(b"{}")
    _mirror(rotated, tmp_path / "copy", trusted)
    _mirror(rotated, tmp_path / "copy")  # from now on by the root it has
    assert _roots(tmp_path / "copy") == ["3.root.json", "4.root.json"]
    codes = [finding.code for finding in check(FolderSource(rotated), now=NOW).findings]
    assert codes == ["root-missing" if damage == "gone" else "root-invalid"]


def test_older_roots_are_copied_as_far_back_as_they_lead_to_the_trusted_one(
    rotated: Path, tmp_path: Path
) -> None:
    trusted = _root(rotated, 3)
    (rotated / "metadata" / "1.root.json").unlink()
    _mirror(rotated, tmp_path / "copy", trusted)
    assert _roots(tmp_path / "copy") == ["2.root.json", "3.root.json", "4.root.json"]


def test_a_copy_with_all_roots_goes_on_when_its_source_loses_the_first(rotated: Path, tmp_path: Path) -> None:
    _mirror(rotated, tmp_path / "copy", _root(rotated, 1))
    (rotated / "metadata" / "1.root.json").unlink()
    (rotated / "metadata" / "2.root.json").unlink()
    _mirror(rotated, tmp_path / "copy")
    assert len(_roots(tmp_path / "copy")) == 4, "nothing is lost here"


def _other_repository() -> tuple[TufRepository, bytes]:
    """Return another publisher's repository that begins with its root 3."""
    other = TufRepository({"a": b"evil"})
    for role in other.signers:
        other.signers[role] = [signer(f"stranger's {role}")]
        other.root.roles[role].keyids.clear()
        other.root.add_key(other.signers[role][0].public_key, role)
    other.root.version = 3
    root = other.publish_root(other.signers["root"])
    other.publish()
    del other.files["metadata/1.root.json"]
    return other, root


def test_a_root_of_another_repository_is_no_start(rotated: Path, tmp_path: Path) -> None:
    (rotated / "metadata" / "1.root.json").unlink()
    with pytest.raises(BrokenRepositoryError, match=r"4\.root\.json: has 0 of the 1 valid signatures"):
        _mirror(rotated, tmp_path / "copy", _other_repository()[1])
    assert not (tmp_path / "copy").exists()


def test_what_a_copy_trusts_goes_before_what_an_operator_names(rotated: Path, tmp_path: Path) -> None:
    """Another repository that has lost its first roots does not become the source by its own root."""
    _mirror(rotated, tmp_path / "copy", _root(rotated, 1))
    before = tree_digest(tmp_path / "copy")
    other, root = _other_repository()
    evil = other.write_to(tmp_path / "evil")
    with pytest.raises(BrokenRepositoryError, match="valid signatures required from the keys of root 4"):
        _mirror(evil, tmp_path / "copy", root)
    assert tree_digest(tmp_path / "copy") == before


# -- roles below roles -------------------------------------------------------------------------------------


def _delegated(repository: TufRepository, name: str, key: str) -> None:
    repository.signers[name] = [signer(key)]
    repository.delegated[name] = Targets(expires=in_days(30))
    repository.delegated[name].version = 0


def _nested(folder: Path) -> TufRepository:
    """Return a repository in which the role ``a`` delegates to ``b``."""
    repository = TufRepository({"top": b"top"})
    repository.delegate("a", ["a/*"])
    key = signer("b").public_key
    role = DelegatedRole("b", [key.keyid], 1, terminating=True, paths=["a/b*"])
    repository.delegated["a"].delegations = Delegations({key.keyid: key}, {"b": role})
    _delegated(repository, "b", "b")
    repository.put("a/b.txt", b"below", role="b")
    _publish(repository)
    repository.write_to(folder)
    return repository


def _bins(folder: Path) -> TufRepository:
    """Return a repository whose targets are spread over four bins."""
    repository = TufRepository({})
    key = signer("bins").public_key
    succinct = SuccinctRoles([key.keyid], 1, 2, "bin")
    repository.targets.delegations = Delegations({key.keyid: key}, succinct_roles=succinct)
    for name in succinct.get_roles():
        _delegated(repository, name, "bins")
    for number in range(8):
        name = f"file{number}.txt"
        repository.put(name, name.encode(), role=succinct.get_role_for_target(name))
    _publish(repository)
    repository.write_to(folder)
    return repository


@pytest.mark.parametrize("make", [_nested, _bins])
def test_everything_that_a_client_can_be_led_to_is_copied_and_nothing_of_it_deleted(
    tmp_path: Path, make: Callable[[Path], TufRepository]
) -> None:
    repository = make(tmp_path / "source")
    for _ in range(2):
        _mirror(tmp_path / "source", tmp_path / "copy", repository.first_root, delete=True)
        assert _files(tmp_path / "copy") == _files(tmp_path / "source")


def test_a_role_further_down_that_does_not_verify_ends_the_copy(tmp_path: Path) -> None:
    repository = _nested(tmp_path / "source")
    repository.resign("metadata/1.b.json", [signer("stranger")])
    repository.write_to(tmp_path / "source")
    with pytest.raises(BrokenRepositoryError, match=r"1\.b\.json: has 0 of the 1 valid signatures"):
        _mirror(tmp_path / "source", tmp_path / "copy", repository.first_root)
    assert not (tmp_path / "copy").exists()


def test_roles_that_delegate_to_each_other_are_read_once(tmp_path: Path) -> None:
    repository = _nested(tmp_path / "source")
    key = signer("a").public_key
    role = DelegatedRole("a", [key.keyid], 1, terminating=True, paths=["a/*"])
    repository.delegated["b"].delegations = Delegations({key.keyid: key}, {"a": role})
    repository.publish()
    repository.write_to(tmp_path / "source")
    _mirror(tmp_path / "source", tmp_path / "copy", repository.first_root)
    for name in ("a", "b"):
        (copied,) = (tmp_path / "copy" / "metadata").glob(f"*.{name}.json")
        assert copied.read_bytes() == repository.files[f"metadata/{copied.name}"]


@pytest.mark.parametrize("name", ["../../evil", "a/../../x", "registry.example.org"])
def test_the_name_of_a_role_never_leads_out_of_the_copy(tmp_path: Path, name: str) -> None:
    repository = TufRepository({"top": b"top"})
    repository.delegate(name, ["x/*"])
    _publish(repository)
    served = repository.files.pop(f"metadata/1.{name}.json")
    repository.files[f"metadata/1.{quote(name, safe='')}.json"] = served
    repository.write_to(tmp_path / "source")
    _mirror(tmp_path / "source", tmp_path / "copy", repository.first_root)
    assert _files(tmp_path / "copy") == _files(tmp_path / "source")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "source"]
