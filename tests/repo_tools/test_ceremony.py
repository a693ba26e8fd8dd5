"""The ceremony: a root that goes from hand to hand, what is said of it, and everything that is refused."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from repo_tools.differences import differences, warnings
from repo_tools.holders import FIELD
from repo_tools.proposal import MAX_PROPOSAL_BYTES
from tests.repo_tools.clients import Client
from tests.support.ceremonies import Desk, make_key, proposal_in
from tests.support.repositories import SmallRepository, make_repository, tree_digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> SmallRepository:
    return make_repository(tmp_path_factory.mktemp("pristine") / "repo", versions=["1.0.0"])


@pytest.fixture
def repository(pristine: SmallRepository, tmp_path: Path) -> SmallRepository:
    folder = shutil.copytree(pristine.folder, tmp_path / "repo")
    return SmallRepository(folder=folder, now=pristine.now, images=pristine.images)


@pytest.fixture
def desk(repository: SmallRepository, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(repository.folder, capsys)


@pytest.fixture
def holders(repository: SmallRepository) -> list[Path]:
    return [repository.folder / "keys" / f"root-{number}.pem" for number in (1, 2, 3)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "hands"
    folder.mkdir()
    return folder / "root-2.json"


@pytest.fixture
def dora(tmp_path: Path) -> Path:
    return make_key(tmp_path, "dora")


def _public(pem: Path) -> Path:
    return pem.with_suffix(".pub.pem")


def _edit(file: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(file.read_bytes())
    change(document)
    file.write_text(json.dumps(document))


# From nothing to a repository.


def test_a_first_root_is_signed_where_no_repository_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Desk(tmp_path, capsys)
    names = ("anna", "boris", "clara", "targets", "snapshot", "timestamp")
    pems = {name: make_key(tmp_path, name) for name in names}
    words = [("--key", f"root={name},{_public(pems[name])}") for name in names[:3]]
    words += [("--key", f"{name}=build,{_public(pems[name])}") for name in names[3:]]
    file = tmp_path / "root-1.json"
    flat = [word for pair in words for word in pair]
    assert "boris" in desk.says("init", file, "--threshold", "root=2", *flat)
    desk.says("init", file, *flat, status=2)
    signers = [word for name in names[3:] for word in ("--signer", f"{name}=file2:{pems[name]}")]
    desk.sign(file, pems["anna"])
    desk.types("new", tmp_path / "repo", "--root", file, *signers, status=1)
    assert not (tmp_path / "repo").exists()
    desk.sign(file, pems["clara"])
    desk.types("new", tmp_path / "repo", "--root", file, *signers[2:], status=2)
    desk.types(
        "new",
        tmp_path / "repo",
        "--root",
        file,
        *signers,
        "--signer",
        f"targets=file2:{pems['anna']}",
        status=2,
    )
    assert not (tmp_path / "repo").exists()
    desk.types("new", tmp_path / "repo", "--root", file, *signers)
    assert not (tmp_path / "repo" / "keys").exists()
    repository = SmallRepository(folder=tmp_path / "repo", now=datetime.now(UTC))
    desk.folder = repository.folder
    assert desk.told("show")["roles"]["root"]["keys"][1]["holder"] == "boris"
    desk.types("validate")
    repository.publish("1.0.0")
    with repository.served() as url:
        assert len(Client(tmp_path / "node", repository.root_json).manifest(url).updates) == 1


def test_a_later_root_begins_no_repository(desk: Desk, file: Path, tmp_path: Path) -> None:
    desk.says("renew", file)
    desk.types("new", tmp_path / "another", "--root", file, status=2)
    assert not (tmp_path / "another").exists()


# One root to the next.


def test_a_client_of_the_old_root_walks_to_the_new_one(
    desk: Desk, repository: SmallRepository, holders: list[Path], file: Path, dora: Path, tmp_path: Path
) -> None:
    node = Client(tmp_path / "node", repository.root_json)
    with repository.served() as url:
        assert node.manifest(url).updates
        desk.says("rotate", file, "root-1", "dora", _public(dora))
        desk.sign(file, *holders[1:], dora)
        assert desk.told("publish", file)["metadata"] == {"root": 2}
        third = file.with_name("root-3.json")
        desk.says("threshold", third, 3)
        desk.sign(third, dora, *holders[1:])
        desk.says("publish", third)
        assert node.manifest(url).updates
        assert Client(tmp_path / "sleeper", repository.root_json).manifest(url).updates
    assert json.loads((tmp_path / "node" / "metadata" / "root.json").read_bytes())["signed"]["version"] == 3
    assert (repository.folder / "metadata" / "1.root.json").read_bytes() == repository.root_json
    assert desk.types("validate").startswith("clean")


def test_the_words_name_people_and_both_thresholds(
    desk: Desk, holders: list[Path], file: Path, dora: Path
) -> None:
    desk.says("rotate", file, "root-1", "dora", _public(dora))
    desk.says("threshold", file, 3)
    desk.sign(file, holders[1])
    text = desk.says("verify", file, status=1)
    assert text.startswith("root 2, to follow root 1 (the published one)\n")
    for fact in (
        r"root: root-1 \(key \w{12}\) is taken out",
        r"root: dora \(key \w{12}\), ed25519, is put in",
        r"root: 3 of 3 must sign, was 2 of 3",
        r"warning: every root key is needed",
        r"keys of root 1: 2 must sign, 1 have\n  signed +root-2 .*\n  not yet +root-1 .*\n  not yet +root-3",
        r"keys of root 2: 3 must sign, 1 have\n  signed +root-2 .*\n  not yet +root-3 .*\n  not yet +dora",
        r"NOT complete: still to sign: 1 of root 1's keys and 2 of root 2's keys\n$",
    ):
        assert re.search(fact, text), (fact, text)
    desk.sign(file, holders[2], dora)
    assert "complete: ready" in desk.says("verify", file)


def test_json_says_the_same(desk: Desk, holders: list[Path], file: Path, dora: Path) -> None:
    desk.says("add-key", file, "dora", _public(dora), "--expires", "10w")
    desk.sign(file, holders[0])
    document = desk.told("verify", file, status=1)
    assert [change["code"] for change in document["changes"]] == ["key-added", "threshold", "expires"]
    assert document["complete"] is False
    assert [(side["root"], side["missing"]) for side in document["signatures"]] == [(1, 1), (2, 1)]
    assert document["signatures"][0]["signed"][0]["name"] == "root-1"


def test_signing_side_by_side(desk: Desk, holders: list[Path], file: Path) -> None:
    desk.says("renew", file)
    copy = file.with_name("copy.json")
    shutil.copy(file, copy)
    desk.sign(file, holders[0])
    desk.sign(copy, holders[1])
    desk.says("verify", file, status=1)
    desk.says("verify", file, copy)
    other = file.with_name("other.json")
    desk.says("remove-key", other, "root-3")
    assert desk.error("publish", file, other, status=2) == "proposal"
    desk.says("publish", file, copy)
    assert desk.says("verify", file, copy).endswith("\npublished already\n")
    assert desk.error("publish", file, copy, status=3) == "nothing-to-do"


def test_a_trusted_root_takes_the_repositorys_place(
    desk: Desk, repository: SmallRepository, holders: list[Path], file: Path, tmp_path: Path
) -> None:
    desk.says("renew", file)
    desk.sign(file, holders[0])
    desk.folder = file.parent
    assert "nothing here to compare it with" in desk.says("verify", file, status=1)
    trusted = repository.folder / "metadata" / "1.root.json"
    assert "1.root.json has it" in desk.says("verify", file, "--trusted-root", trusted, status=1)
    another = make_repository(tmp_path / "another", versions=[])
    strange = another.folder / "metadata" / "1.root.json"
    words = ("sign", file, "--key", f"file2:{holders[1]}", "--trusted-root", strange)
    before = file.read_bytes()
    assert desk.error(*words, status=1) == "proposal-stale"
    assert file.read_bytes() == before


def test_without_a_repository_the_keys_that_stay_are_shown(desk: Desk, file: Path) -> None:
    desk.says("renew", file)
    desk.folder = file.parent
    assert "timestamp: timestamp (key" in desk.says("verify", file, status=1)


# What is refused when a proposal is written.


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["threshold", "FILE", 4], id="threshold-above-keys"),
        pytest.param(["threshold", "FILE", 0], id="threshold-0"),
        pytest.param(["threshold", "FILE", 2, "--role", "timestamp"], id="threshold-of-one-key"),
        pytest.param(["remove-key", "FILE", "timestamp", "--role", "timestamp"], id="last-key"),
        pytest.param(["remove-key", "FILE", "nobody"], id="no-such-holder"),
        pytest.param(["rotate", "FILE", "nobody", "dora", "PUBLIC"], id="rotate-nobody"),
        pytest.param(["add-key", "FILE", "root-1", "PUBLIC"], id="name-is-taken"),
        pytest.param(["add-key", "FILE", "do\x1bra", "PUBLIC"], id="name-with-escape"),
        pytest.param(["add-key", "FILE", "d" * 65, "PUBLIC"], id="long-name"),
        pytest.param(["add-key", "FILE", "dora", "nowhere.pem"], id="no-file"),
        pytest.param(["add-key", "FILE", "dora", "PRIVATE"], id="private-key"),
        pytest.param(["add-key", "FILE", "again", "OWN"], id="key-is-there"),
    ],
)
def test_a_senseless_proposal_is_not_written(
    desk: Desk, holders: list[Path], file: Path, dora: Path, tmp_path: Path, words: list[object]
) -> None:
    own = tmp_path / "own.pem"
    own.write_text(desk.says("public-key", f"file2:{holders[0]}"))
    names = {"FILE": file, "PUBLIC": _public(dora), "PRIVATE": dora, "OWN": own}
    before = tree_digest(desk.folder)
    assert desk.error(*(names.get(str(word), word) for word in words), status=2) in {
        "proposal",
        "signing-key",
    }
    assert not file.exists()
    assert tree_digest(desk.folder) == before


def test_a_signed_proposal_is_not_edited(desk: Desk, holders: list[Path], file: Path) -> None:
    desk.says("renew", file)
    desk.sign(file, holders[0])
    before = file.read_bytes()
    for words in (["renew", file], ["threshold", file, 1], ["remove-key", file, "root-3"]):
        assert desk.error(*words, status=2) == "proposal"
    assert file.read_bytes() == before


def test_a_key_by_the_start_of_its_keyid(desk: Desk, file: Path) -> None:
    keyid = desk.told("show")["roles"]["root"]["keys"][0]["keyid"]
    desk.says("remove-key", file, keyid[:10])
    assert keyid not in proposal_in(file).root.keys
    assert keyid not in proposal_in(file).root.unrecognized_fields[FIELD]


# What is refused when it is signed.


def test_a_key_that_is_not_the_roles(desk: Desk, repository: SmallRepository, file: Path, dora: Path) -> None:
    desk.says("renew", file)
    before = file.read_bytes()
    for pem in (dora, repository.folder / "keys" / "timestamp.pem"):
        assert desk.error("sign", file, "--key", f"file2:{pem}", status=2) == "key-not-of-role"
    assert file.read_bytes() == before


def test_a_wrong_passphrase(desk: Desk, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsa = make_key(tmp_path, "elsa", "correct horse")
    desk.says("add-key", file, "elsa", _public(elsa))
    before = file.read_bytes()
    words = ("sign", file, "--key", f"file2:{elsa}")
    assert desk.error(*words, status=2) == "signing-key"
    monkeypatch.setenv("REPO_TOOLS_PASSPHRASE", "wrong")
    assert desk.error(*words, status=2) == "signing-key"
    assert file.read_bytes() == before
    monkeypatch.setenv("REPO_TOOLS_PASSPHRASE", "correct horse")
    desk.says(*words)
    assert desk.error(*words, status=3) == "nothing-to-do"


def test_a_key_is_never_overwritten(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPO_TOOLS_PASSPHRASE", "correct horse")
    pem = tmp_path / "elsa.pem"
    document = desk.told("make-key", pem)
    assert "ENCRYPTED" in pem.read_text()
    assert pem.stat().st_mode & 0o777 == 0o600
    assert desk.told("public-key", f"file2:{pem}")["keyid"] == document["keyid"]
    before = pem.read_bytes()
    assert desk.error("make-key", pem, status=1) == "io-error"
    assert pem.read_bytes() == before


# What is refused wherever it is read.


def _raise_threshold(document: Any) -> None:
    document["root"]["signed"]["roles"]["root"]["threshold"] = 1


def _rename_holder(document: Any) -> None:
    names = document["root"]["signed"][FIELD]
    names[next(iter(names))] = "somebody else"


def _spoil_signature(document: Any) -> None:
    document["root"]["signatures"][0]["sig"] = "00" * 64


def _change_base(document: Any) -> None:
    document["base"]["signed"]["roles"]["root"]["threshold"] = 1


def _skip_a_version(document: Any) -> None:
    document["root"]["signed"]["version"] = 7


def _wild_name(document: Any) -> None:
    names = document["root"]["signed"][FIELD]
    names[next(iter(names))] = "\x1b[2Janna"


def _names_no_table(document: Any) -> None:
    document["root"]["signed"][FIELD] = ["anna"]


def _beyond_reach(document: Any) -> None:
    document["root"]["signed"]["roles"]["root"]["threshold"] = 9


@pytest.mark.parametrize(
    "spoil",
    [
        _raise_threshold,
        _rename_holder,
        _spoil_signature,
        _change_base,
        _skip_a_version,
        _wild_name,
        _names_no_table,
        _beyond_reach,
    ],
)
def test_a_tampered_proposal_is_refused_by_all(
    desk: Desk, holders: list[Path], file: Path, spoil: Callable[[Any], None]
) -> None:
    desk.says("renew", file)
    desk.sign(file, *holders[:2])
    _edit(file, spoil)
    spoilt, before = file.read_bytes(), tree_digest(desk.folder)
    assert desk.error("verify", file, status=1) == "proposal-tampered"
    assert desk.error("sign", file, "--key", f"file2:{holders[2]}", status=1) == "proposal-tampered"
    assert desk.error("publish", file, status=1) == "proposal-tampered"
    assert file.read_bytes() == spoilt
    assert tree_digest(desk.folder) == before


def _not_json(data: bytes) -> bytes:
    return data[:-9]


def _of_another_format(data: bytes) -> bytes:
    return data.replace(b"root proposal 1", b"root proposal 9")


def _too_long(data: bytes) -> bytes:
    return data + b" " * MAX_PROPOSAL_BYTES


def _no_object(data: bytes) -> bytes:
    return b"[%d]" % len(data)


@pytest.mark.parametrize("spoil", [_not_json, _of_another_format, _too_long, _no_object])
def test_what_is_no_proposal(desk: Desk, file: Path, spoil: Callable[[bytes], bytes]) -> None:
    desk.says("renew", file)
    file.write_bytes(spoil(file.read_bytes()))
    assert desk.error("verify", file, status=2) == "proposal"
    assert desk.error("verify", file.parent, status=2) == "proposal"


def test_another_roles_metadata_is_no_proposal(desk: Desk, repository: SmallRepository, file: Path) -> None:
    desk.says("renew", file)
    timestamp = json.loads((repository.folder / "metadata" / "timestamp.json").read_bytes())
    _edit(file, lambda document: document.update(root=timestamp))
    assert desk.error("verify", file, status=2) == "proposal"


def test_a_key_under_anothers_keyid(desk: Desk, file: Path, dora: Path) -> None:
    desk.says("add-key", file, "dora", _public(dora))

    def swap(document: Any) -> None:
        signed = document["root"]["signed"]
        keyid = signed["roles"]["root"]["keyids"][-1]
        signed["keys"][keyid]["keyval"]["public"] = "00" * 32

    _edit(file, swap)
    assert desk.error("verify", file, status=2) == "signing-key"


def test_a_signature_by_a_key_that_was_removed_earlier(desk: Desk, holders: list[Path], file: Path) -> None:
    desk.says("remove-key", file, "root-1")
    desk.sign(file, *holders[1:])
    desk.says("publish", file)
    third = file.with_name("root-3.json")
    desk.says("renew", third)
    desk.sign(third, holders[1])
    assert desk.error("sign", third, "--key", f"file2:{holders[0]}", status=2) == "key-not-of-role"
    proposal = proposal_in(third)
    removed = desk.told("public-key", f"file2:{holders[0]}")["keyid"]
    private: Any = load_pem_private_key(holders[0].read_bytes(), None)
    signature = CryptoSigner(private).sign(proposal.new.signed_bytes)
    assert signature.keyid == removed
    proposal.new.signatures[removed] = signature
    third.write_bytes(proposal.to_bytes())
    before = tree_digest(desk.folder)
    assert desk.error("publish", third, status=1) == "proposal-tampered"
    assert desk.error("verify", third, status=1) == "proposal-tampered"
    assert tree_digest(desk.folder) == before


def test_a_proposal_made_against_an_older_root(desk: Desk, holders: list[Path], file: Path) -> None:
    late = file.with_name("late.json")
    desk.says("renew", late)
    desk.says("remove-key", file, "root-3")
    for proposal in (file, late):
        desk.sign(proposal, *holders[:2])
    desk.says("publish", file)
    before = tree_digest(desk.folder)
    assert desk.error("publish", late, status=1) == "proposal-stale"
    assert desk.error("verify", late, status=1) == "proposal-stale"
    assert desk.error("sign", late, "--key", f"file2:{holders[2]}", status=1) == "proposal-stale"
    assert tree_digest(desk.folder) == before


@pytest.mark.parametrize(
    ("signers", "missing"),
    [
        pytest.param([], (2, 2), id="nobody"),
        pytest.param([0], (1, 2), id="the-leaving-one"),
        pytest.param([0, 1], (0, 1), id="old-threshold-only"),
        pytest.param([1, 3], (1, 0), id="new-threshold-only"),
    ],
)
def test_half_signed_is_not_published(
    desk: Desk, holders: list[Path], file: Path, dora: Path, signers: list[int], missing: tuple[int, int]
) -> None:
    desk.says("rotate", file, "root-1", "dora", _public(dora))
    desk.sign(file, *([*holders, dora][number] for number in signers))
    before = tree_digest(desk.folder)
    sides = desk.told("verify", file, status=1)["signatures"]
    assert tuple(side["missing"] for side in sides) == missing
    assert desk.error("publish", file, status=1) == "proposal-incomplete"
    assert tree_digest(desk.folder) == before


def test_an_expired_proposal_is_not_published(desk: Desk, holders: list[Path], file: Path) -> None:
    desk.says("renew", file)
    proposal = proposal_in(file)
    proposal.root.expires = datetime(2026, 1, 1, tzinfo=UTC)
    file.write_bytes(proposal.to_bytes())
    desk.sign(file, *holders[:2])
    before = tree_digest(desk.folder)
    assert desk.error("publish", file, status=2) == "proposal"
    assert "has expired already" in desk.told("verify", file)["warnings"][0]
    assert tree_digest(desk.folder) == before


# Nothing that changes goes unsaid.


def _root(repository: SmallRepository) -> Root:
    return Metadata[Root].from_bytes(repository.root_json).signed


def _foreign_field(root: Root) -> None:
    root.unrecognized_fields["x-other"] = "\x1b[2J"


def _other_spec(root: Root) -> None:
    root.spec_version = "1.0.31"


def _inconsistent(root: Root) -> None:
    root.consistent_snapshot = False


def _role_field(root: Root) -> None:
    root.roles["targets"].unrecognized_fields["x-other"] = 1


def _key_entry(root: Root) -> None:
    root.keys[root.roles["targets"].keyids[0]].unrecognized_fields["x-other"] = 1


def _unused_key(root: Root) -> None:
    root.roles["targets"].keyids.clear()


def _other_name(root: Root) -> None:
    root.unrecognized_fields[FIELD][root.roles["root"].keyids[0]] = "zoe"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_foreign_field, "field"),
        (_other_spec, "field"),
        (_inconsistent, "field"),
        (_role_field, "field"),
        (_key_entry, "key-altered"),
        (_unused_key, "key-unused"),
        (_other_name, "name"),
    ],
)
def test_every_difference_is_told(
    pristine: SmallRepository, change: Callable[[Root], None], code: str
) -> None:
    old, new = _root(pristine), _root(pristine)
    assert {item.code for item in differences(old, new)} == {"expires"}
    change(new)
    told = differences(old, new)
    assert code in {item.code for item in told}
    assert all(item.text.isprintable() for item in told)


def test_warnings(pristine: SmallRepository) -> None:
    old, new = _root(pristine), _root(pristine)
    assert warnings(old, new, pristine.now) == []
    new.roles["root"].threshold = 1
    new.roles["timestamp"].keyids = [new.roles["root"].keyids[0]]
    new.expires += timedelta(weeks=520)
    found = "\n".join(warnings(old, new, pristine.now))
    for fact in ("a single root key", "signs for root and for timestamp", "it lasts"):
        assert fact in found
    leak = _root(pristine)
    leak.roles["snapshot"].keyids = leak.roles["targets"].keyids
    assert "change both" in warnings(old, leak, pristine.now)[0]


# The rehearsal.


def test_a_rehearsal_goes_through_everything(desk: Desk, tmp_path: Path) -> None:
    before = tree_digest(desk.folder)
    document = desk.told("rehearse", "--keep", tmp_path / "kept")
    assert document["holders"] == ["root-1", "root-2", "root-3"]
    acts = list(dict.fromkeys(step["act"] for step in document["steps"]))
    assert acts == ["a new repository", "root-1 has lost a root key", "the online keys have leaked"]
    assert any(step["status"] == 1 and "root publish" in step["command"] for step in document["steps"])
    assert (tmp_path / "kept" / "repository" / "metadata" / "3.root.json").is_file()
    assert tree_digest(desk.folder) == before
    desk.says("rehearse", "--keep", tmp_path / "kept", status=2)


def test_a_rehearsal_without_a_key_to_spare_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], desk: Desk, holders: list[Path], file: Path
) -> None:
    assert "1 can be lost" in Desk(tmp_path, capsys).says("rehearse")
    desk.says("threshold", file, 3)
    desk.sign(file, *holders)
    desk.says("publish", file)
    text = desk.says("rehearse")
    assert "no root can follow, ever" in text
    assert "has lost" not in text
