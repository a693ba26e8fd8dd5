"""The ceremony: a root passed from holder to holder, what is reported about it, and all that is refused."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, Root

from repo_tools.ceremony.root_diff import differences, warnings
from repo_tools.ceremony.root_proposal import MAX_PROPOSAL_BYTES
from repo_tools.cli import cli
from repo_tools.errors import ExpiredRepositoryError
from repo_tools.keys.holders import FIELD
from repo_tools.releases import rollout
from repo_tools.releases.release import ReleaseName
from signpost.console import run
from tests.repo_tools.clients import Client
from tests.support.ceremonies import RepoTools, make_key, proposal_in
from tests.support.patience import stretched
from tests.support.repositories import SmallRepository, make_repository, tree_digest
from updog.update_metadata.version import Version

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
def tool(repository: SmallRepository, capsys: pytest.CaptureFixture[str]) -> RepoTools:
    return RepoTools(repository.folder, capsys)


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
    tool = RepoTools(tmp_path, capsys)
    names = ("anna", "boris", "clara", "targets", "snapshot", "timestamp")
    pems = {name: make_key(tmp_path, name) for name in names}
    words = [("--key", f"root={name},{_public(pems[name])}") for name in names[:3]]
    words += [("--key", f"{name}=build,{_public(pems[name])}") for name in names[3:]]
    file = tmp_path / "root-1.json"
    flat = [word for pair in words for word in pair]
    assert "boris" in tool.root("init", file, "--threshold", "root=2", *flat)
    tool.root("init", file, *flat, status=2)
    signers = [word for name in names[3:] for word in ("--signer", f"{name}=file2:{pems[name]}")]
    tool.sign(file, pems["anna"])
    tool.run("new", tmp_path / "repo", "--root", file, *signers, status=1)
    assert not (tmp_path / "repo").exists()
    tool.sign(file, pems["clara"])
    tool.run("new", tmp_path / "repo", "--root", file, *signers[2:], status=2)
    tool.run(
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
    tool.run("new", tmp_path / "repo", "--root", file, *signers)
    assert not (tmp_path / "repo" / "keys").exists()
    repository = SmallRepository(folder=tmp_path / "repo", now=datetime.now(UTC))
    tool.folder = repository.folder
    assert tool.root_json("show")["roles"]["root"]["keys"][1]["holder"] == "boris"
    tool.run("validate")
    repository.publish("1.0.0")
    with repository.served() as url:
        assert len(Client(tmp_path / "node", repository.root_json).manifest(url).updates) == 1


def test_a_later_root_begins_no_repository(tool: RepoTools, file: Path, tmp_path: Path) -> None:
    tool.root("renew", file)
    tool.run("new", tmp_path / "another", "--root", file, status=2)
    assert not (tmp_path / "another").exists()


# One root to the next.


def test_a_client_of_the_old_root_walks_to_the_new_one(
    tool: RepoTools, repository: SmallRepository, holders: list[Path], file: Path, dora: Path, tmp_path: Path
) -> None:
    node = Client(tmp_path / "node", repository.root_json)
    with repository.served() as url:
        assert node.manifest(url).updates
        tool.root("rotate", file, "root-1", "dora", _public(dora))
        tool.sign(file, *holders[1:], dora)
        assert tool.root_json("publish", file)["metadata"] == {"root": 2}
        third = file.with_name("root-3.json")
        tool.root("threshold", third, 3)
        tool.sign(third, dora, *holders[1:])
        tool.root("publish", third)
        assert node.manifest(url).updates
        assert Client(tmp_path / "sleeper", repository.root_json).manifest(url).updates
    assert json.loads((tmp_path / "node" / "metadata" / "root.json").read_bytes())["signed"]["version"] == 3
    assert (repository.folder / "metadata" / "1.root.json").read_bytes() == repository.root_json
    assert tool.run("validate").startswith("clean")


def test_the_words_name_people_and_both_thresholds(
    tool: RepoTools, holders: list[Path], file: Path, dora: Path
) -> None:
    tool.root("rotate", file, "root-1", "dora", _public(dora))
    tool.root("threshold", file, 3)
    tool.sign(file, holders[1])
    text = tool.root("verify", file, status=1)
    assert text.startswith("root 2, to follow root 1 (the published one)\n")
    for fact in (
        r"root: root-1 \(key \w{12}\) is removed",
        r"root: dora \(key \w{12}\), ed25519, is added",
        r"root: 3 of 3 must sign, was 2 of 3",
        r"warning: every root key is required",
        r"keys of root 1: 2 must sign, 1 have\n  signed +root-2 .*\n  not yet +root-1 .*\n  not yet +root-3",
        r"keys of root 2: 3 must sign, 1 have\n  signed +root-2 .*\n  not yet +root-3 .*\n  not yet +dora",
        r"NOT complete: still to sign: 1 of root 1's keys and 2 of root 2's keys\n$",
    ):
        assert re.search(fact, text), (fact, text)
    tool.sign(file, holders[2], dora)
    assert "complete: ready" in tool.root("verify", file)


def test_json_says_the_same(tool: RepoTools, holders: list[Path], file: Path, dora: Path) -> None:
    tool.root("add-key", file, "dora", _public(dora), "--expires", "10w")
    tool.sign(file, holders[0])
    document = tool.root_json("verify", file, status=1)
    assert [change["code"] for change in document["changes"]] == ["key-added", "threshold", "expires"]
    assert document["complete"] is False
    assert [(side["root"], side["missing"]) for side in document["signatures"]] == [(1, 1), (2, 1)]
    assert document["signatures"][0]["signed"][0]["name"] == "root-1"


def test_signatures_of_two_copies_are_merged(tool: RepoTools, holders: list[Path], file: Path) -> None:
    tool.root("renew", file)
    copy = file.with_name("copy.json")
    shutil.copy(file, copy)
    tool.sign(file, holders[0])
    tool.sign(copy, holders[1])
    tool.root("verify", file, status=1)
    tool.root("verify", file, copy)
    other = file.with_name("other.json")
    tool.root("remove-key", other, "root-3")
    assert tool.error("publish", file, other, status=2) == "proposal"
    tool.root("publish", file, copy)
    assert tool.root("verify", file, copy).endswith("\npublished already\n")
    assert tool.error("publish", file, copy, status=3) == "nothing-to-do"


def test_a_trusted_root_takes_the_repositorys_place(
    tool: RepoTools, repository: SmallRepository, holders: list[Path], file: Path, tmp_path: Path
) -> None:
    tool.root("renew", file)
    tool.sign(file, holders[0])
    tool.folder = file.parent
    assert "nothing here to compare it with" in tool.root("verify", file, status=1)
    trusted = repository.folder / "metadata" / "1.root.json"
    assert f"as in {trusted}" in tool.root("verify", file, "--trusted-root", trusted, status=1)
    another = make_repository(tmp_path / "another", versions=[])
    strange = another.folder / "metadata" / "1.root.json"
    words = ("sign", file, "--key", f"file2:{holders[1]}", "--trusted-root", strange)
    before = file.read_bytes()
    assert tool.error(*words, status=1) == "proposal-stale"
    assert file.read_bytes() == before


def test_signing_asks_on_a_terminal_and_never_where_nobody_sees_the_question(
    tool: RepoTools, holders: list[Path], file: Path
) -> None:
    tool.root("renew", file)
    before = file.read_bytes()
    command = [sys.executable, "-c", "from repo_tools.cli import main; main()", "root", "sign", str(file)]
    command += ["--key", f"file2:{holders[0]}"]
    terminal, end = pty.openpty()
    os.set_blocking(terminal, False)
    hidden = subprocess.run(
        command, stdin=end, capture_output=True, text=True, timeout=stretched(60), check=False
    )
    assert (hidden.returncode, file.read_bytes()) == (2, before)
    assert "stderr is not a terminal" in hidden.stderr
    for answer, status in ((b"n\n", 130), (b"y\n", 0)):
        os.write(terminal, answer)
        done = subprocess.run(
            command, stdin=end, stdout=subprocess.PIPE, stderr=end, timeout=stretched(60), check=False
        )
        assert done.returncode == status
        assert (file.read_bytes() == before) == (status != 0)
        assert "sign this?" in os.read(terminal, 1 << 16).decode(errors="replace")
    os.close(end)
    os.close(terminal)


def test_without_a_repository_the_keys_that_stay_are_shown(tool: RepoTools, file: Path) -> None:
    tool.root("renew", file)
    tool.folder = file.parent
    assert "timestamp: timestamp (key" in tool.root("verify", file, status=1)


# What is refused when a proposal is written.


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["threshold", "FILE", 4], id="threshold-above-keys"),
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
    tool: RepoTools, holders: list[Path], file: Path, dora: Path, tmp_path: Path, words: list[object]
) -> None:
    own = tmp_path / "own.pem"
    own.write_text(tool.root("public-key", f"file2:{holders[0]}"))
    names = {"FILE": file, "PUBLIC": _public(dora), "PRIVATE": dora, "OWN": own}
    before = tree_digest(tool.folder)
    assert tool.error(*(names.get(str(word), word) for word in words), status=2) in {
        "proposal",
        "signing-key",
    }
    assert not file.exists()
    assert tree_digest(tool.folder) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(["threshold", "FILE", 0], "0 is not in the range", id="threshold"),
        pytest.param(["renew", "FILE", "--expires", "0d"], "shorter than 1 minute", id="renew"),
        pytest.param(["renew", "FILE", "--expires", "0 weeks"], "shorter than 1 minute", id="renew-in-words"),
        pytest.param(["renew", "FILE", "--expires", "9999w"], "longer than ten years", id="renew-for-ever"),
        pytest.param(["threshold", "FILE", 2, "--expires", "0m"], "shorter than 1 minute", id="expires"),
        pytest.param(
            ["init", "FILE", "--key", "root=a,PUBLIC", "--threshold", "root=0"], "N at least 1", id="init"
        ),
        pytest.param(
            ["init", "FILE", "--key", "root=a,PUBLIC", "--expires", "0h"], "shorter than", id="init-expires"
        ),
    ],
)
def test_a_quantity_that_means_nothing_is_wrong_usage(
    tool: RepoTools, file: Path, dora: Path, words: list[object], says: str
) -> None:
    given = [file if word == "FILE" else str(word).replace("PUBLIC", str(_public(dora))) for word in words]
    tool.capsys.readouterr()
    assert run(cli, ["--repo", str(tool.folder), "root", *map(str, given)]) == 2
    assert says in tool.capsys.readouterr().err
    assert not file.exists()


@pytest.mark.parametrize("words", [["--root-threshold", "0"], ["--root-keys", "0"], ["--expires", "root=0d"]])
def test_a_new_repository_with_a_quantity_of_0_is_wrong_usage(
    tool: RepoTools, tmp_path: Path, words: list[str]
) -> None:
    assert run(cli, ["new", str(tmp_path / "new"), *words]) == 2
    assert words[0].removeprefix("--") in tool.capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_channel_with_a_threshold_of_0_is_wrong_usage(tool: RepoTools) -> None:
    words = ["channel", "add", "x", "--signer", "file2:keys/targets.pem", "--threshold", "0"]
    assert run(cli, ["--repo", str(tool.folder), *words]) == 2
    assert "not in the range" in tool.capsys.readouterr().err


def _under_another_keyid(repository: SmallRepository, number: int) -> str:
    """Publish a root in which the key of ``root-<number>`` has the keyid that tuftool gives it; return it."""
    path = repository.folder / "metadata" / "1.root.json"
    root = Metadata[Root].from_bytes(path.read_bytes())
    keyid = root.signed.roles["root"].keyids[number - 1]
    other = "0" * 64
    key = root.signed.keys.pop(keyid)
    root.signed.keys[other] = SSlibKey(other, key.keytype, key.scheme, key.keyval)
    root.signed.roles["root"].keyids[number - 1] = other
    root.signatures.clear()
    for at in (1, 2, 3):
        pem = repository.folder / "keys" / f"root-{at}.pem"
        private = load_pem_private_key(pem.read_bytes().partition(b"\n")[2], None)
        public = root.signed.keys[root.signed.roles["root"].keyids[at - 1]]
        assert isinstance(public, SSlibKey)
        root.sign(CryptoSigner(private, public), append=True)
    path.write_bytes(root.to_bytes())
    return keyid


def test_one_key_is_one_key_under_whatever_keyid(
    tool: RepoTools, repository: SmallRepository, holders: list[Path], file: Path
) -> None:
    _under_another_keyid(repository, 1)
    own = file.with_name("own.pub.pem")
    own.write_text(tool.root("public-key", f"file2:{holders[0]}"))
    for role in ("root", "timestamp"):
        assert tool.error("add-key", file, "second", own, "--role", role, status=2) == "proposal"
    assert tool.error("rotate", file, "root-2", "second", own, status=2) == "proposal"
    assert not file.exists()
    tool.root("rotate", file, "0" * 12, "root-1", own)


def test_a_proposal_that_lists_a_new_key_twice_is_refused(
    tool: RepoTools, repository: SmallRepository, file: Path, dora: Path
) -> None:
    del repository
    tool.root("add-key", file, "dora", _public(dora))

    def twice(document: Any) -> None:
        signed = document["root"]["signed"]
        keyid = signed["roles"]["root"]["keyids"][-1]
        signed["keys"]["0" * 64] = signed["keys"][keyid]
        signed["roles"]["root"]["keyids"].append("0" * 64)

    _edit(file, twice)
    assert tool.run("root", "verify", file, status=1) == ""


def test_a_root_with_one_key_twice_is_warned_of(pristine: SmallRepository) -> None:
    root = _root(pristine)
    keyid = root.roles["root"].keyids[0]
    key = root.keys[keyid]
    root.keys["0" * 64] = SSlibKey("0" * 64, key.keytype, key.scheme, key.keyval)
    root.roles["root"].keyids.append("0" * 64)
    assert "are the same key under two keyids" in "\n".join(warnings(_root(pristine), root, pristine.now))


def test_two_holders_of_a_first_root_have_two_keys(tool: RepoTools, file: Path, dora: Path) -> None:
    public = _public(dora)
    words = [word for name in ("anna", "boris") for word in ("--key", f"root={name},{public}")]
    words += [
        word for role in ("targets", "snapshot", "timestamp") for word in ("--key", f"{role}=build,{public}")
    ]
    assert tool.error("init", file, *words, status=2) == "proposal"
    assert not file.exists()


# A holder with an old root.


def _root_3(tool: RepoTools, holders: list[Path], folder: Path, dora: Path) -> Path:
    """Publish roots 2 and 3, the second without root-1; return a proposal of root 4."""
    second, third, fourth = (folder / f"root-{number}.json" for number in (2, 3, 4))
    tool.root("rotate", second, "root-1", "dora", _public(dora))
    tool.sign(second, *holders[1:])
    tool.root("publish", second)
    tool.root("renew", third)
    tool.sign(third, dora, holders[1])
    tool.root("publish", third)
    tool.root("renew", fourth)
    return fourth


def test_a_holder_with_an_old_root_walks_the_chain_without_a_repository(
    tool: RepoTools, repository: SmallRepository, holders: list[Path], tmp_path: Path, dora: Path
) -> None:
    fourth = _root_3(tool, holders, tmp_path, dora)
    roots = {number: repository.folder / "metadata" / f"{number}.root.json" for number in (1, 2, 3)}
    tool.folder = tmp_path
    for number, way in ((1, "2 verified steps"), (2, "1 verified step "), (3, "3.root.json)")):
        assert way in tool.root("verify", fourth, "--trusted-root", roots[number], status=1)
    tool.root("sign", fourth, "--key", f"file2:{holders[2]}", "--trusted-root", roots[1])
    assert proposal_in(fourth).signature_status()[0].missing == 1


@pytest.mark.parametrize("fault", ["forged", "gone", "another-start", "unsigned"])
def test_a_broken_way_from_an_old_root_is_refused(
    tool: RepoTools,
    repository: SmallRepository,
    holders: list[Path],
    tmp_path: Path,
    dora: Path,
    fault: str,
) -> None:
    fourth = _root_3(tool, holders, tmp_path, dora)
    trusted = repository.folder / "metadata" / "1.root.json"

    def break_it(document: Any) -> None:
        if fault == "forged":
            document["earlier"][1]["signed"]["expires"] = "2040-01-01T00:00:00Z"
        elif fault == "gone":
            del document["earlier"][1]
        elif fault == "another-start":
            document["earlier"][0]["signed"]["expires"] = "2040-01-01T00:00:00Z"
        else:
            document["earlier"][1]["signatures"] = []

    _edit(fourth, break_it)
    before = fourth.read_bytes()
    tool.folder = tmp_path
    words = ("sign", fourth, "--key", f"file2:{holders[2]}", "--trusted-root", trusted)
    code = "proposal-stale" if fault in {"gone", "another-start"} else "proposal-tampered"
    assert tool.error(*words, status=1) == code
    assert fourth.read_bytes() == before


def test_a_file_of_something_else_is_no_trusted_root(
    tool: RepoTools, repository: SmallRepository, file: Path
) -> None:
    tool.root("renew", file)
    timestamp = repository.folder / "metadata" / "timestamp.json"
    assert tool.error("verify", file, "--trusted-root", timestamp, status=2) == "proposal"


# What publishing will need, and what must not be published.


def test_new_online_keys_that_are_not_here_are_told_before(
    tool: RepoTools, repository: SmallRepository, file: Path, dora: Path, holders: list[Path]
) -> None:
    said = tool.root("rotate", file, "timestamp", "dora", _public(dora), "--role", "timestamp")
    assert "repo.toml must name the keys for that first: timestamp, 0 of 1 available, lacks dora (key" in said
    assert "ed25519" in said
    (text,) = tool.root_json("verify", file, status=1)["unavailable"]
    assert "dora" in text
    tool.sign(file, *holders[:2])
    before = tree_digest(repository.folder)
    answer = tool.root_json("publish", file, status=1)["error"]
    assert answer["code"] == "threshold"
    assert "dora (key" in answer["message"]
    assert "--signer-line" in answer["next_step"]
    assert tree_digest(repository.folder) == before
    tool.add_signer(dora)
    assert tool.root_json("verify", file)["unavailable"] == []
    tool.root("publish", file)


def test_under_an_expired_root_nothing_is_published(repository: SmallRepository, tool: RepoTools) -> None:
    late = repository.now + timedelta(days=52 * 7 + 1)
    before = tree_digest(repository.folder)
    with pytest.raises(ExpiredRepositoryError, match=r"root 1 expired on .* no node accepts"):
        repository.publish("1.1.0", now=late)
    with pytest.raises(ExpiredRepositoryError):
        rollout.hold(repository.folder, ReleaseName(version=Version.parse("1.0.0")), now=late)
    assert tree_digest(repository.folder) == before
    assert tool.run("validate")


# What a proposal is refused for later.


def test_a_signed_proposal_is_not_edited(tool: RepoTools, holders: list[Path], file: Path) -> None:
    tool.root("renew", file)
    tool.sign(file, holders[0])
    before = file.read_bytes()
    for words in (["renew", file], ["threshold", file, 1], ["remove-key", file, "root-3"]):
        assert tool.error(*words, status=2) == "proposal"
    assert file.read_bytes() == before


def test_a_key_can_be_named_by_the_start_of_its_keyid(tool: RepoTools, file: Path) -> None:
    keyid = tool.root_json("show")["roles"]["root"]["keys"][0]["keyid"]
    tool.root("remove-key", file, keyid[:10])
    assert keyid not in proposal_in(file).root.keys
    assert keyid not in proposal_in(file).root.unrecognized_fields[FIELD]


# What is refused when it is signed.


def test_a_key_of_another_role_cannot_sign(
    tool: RepoTools, repository: SmallRepository, file: Path, dora: Path
) -> None:
    tool.root("renew", file)
    before = file.read_bytes()
    for pem in (dora, repository.folder / "keys" / "timestamp.pem"):
        assert tool.error("sign", file, "--key", f"file2:{pem}", status=2) == "key-not-of-role"
    assert file.read_bytes() == before


def test_a_missing_or_wrong_passphrase_signs_nothing(
    tool: RepoTools, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsa = make_key(tmp_path, "elsa", "correct horse")
    tool.root("add-key", file, "elsa", _public(elsa))
    before = file.read_bytes()
    words = ("sign", file, "--key", f"file2:{elsa}")
    assert tool.error(*words, status=2) == "signing-key"
    monkeypatch.setenv("REPO_TOOLS_PASSPHRASE", "wrong")
    assert tool.error(*words, status=2) == "signing-key"
    assert file.read_bytes() == before
    monkeypatch.setenv("REPO_TOOLS_PASSPHRASE", "correct horse")
    tool.root(*words)
    assert tool.error(*words, status=3) == "nothing-to-do"


def test_a_key_is_never_overwritten(tool: RepoTools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPO_TOOLS_PASSPHRASE", "correct horse")
    pem = tmp_path / "elsa.pem"
    document = tool.root_json("make-key", pem)
    assert "ENCRYPTED" in pem.read_text()
    assert pem.stat().st_mode & 0o777 == 0o600
    assert tool.root_json("public-key", f"file2:{pem}")["keyid"] == document["keyid"]
    before = pem.read_bytes()
    assert tool.error("make-key", pem, status=1) == "io-error"
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
    tool: RepoTools, holders: list[Path], file: Path, spoil: Callable[[Any], None]
) -> None:
    tool.root("renew", file)
    tool.sign(file, *holders[:2])
    _edit(file, spoil)
    spoilt, before = file.read_bytes(), tree_digest(tool.folder)
    assert tool.error("verify", file, status=1) == "proposal-tampered"
    assert tool.error("sign", file, "--key", f"file2:{holders[2]}", status=1) == "proposal-tampered"
    assert tool.error("publish", file, status=1) == "proposal-tampered"
    assert file.read_bytes() == spoilt
    assert tree_digest(tool.folder) == before


def _not_json(data: bytes) -> bytes:
    return data[:-9]


def _of_another_format(data: bytes) -> bytes:
    return data.replace(b"root proposal 1", b"root proposal 9")


def _too_long(data: bytes) -> bytes:
    return data + b" " * MAX_PROPOSAL_BYTES


def _no_object(data: bytes) -> bytes:
    return b"[%d]" % len(data)


@pytest.mark.parametrize("spoil", [_not_json, _of_another_format, _too_long, _no_object])
def test_a_file_that_is_not_a_proposal_is_refused(
    tool: RepoTools, file: Path, spoil: Callable[[bytes], bytes]
) -> None:
    tool.root("renew", file)
    file.write_bytes(spoil(file.read_bytes()))
    assert tool.error("verify", file, status=2) == "proposal"
    assert tool.error("verify", file.parent, status=2) == "proposal"


def test_a_proposal_with_another_roles_metadata_is_refused(
    tool: RepoTools, repository: SmallRepository, file: Path
) -> None:
    tool.root("renew", file)
    timestamp = json.loads((repository.folder / "metadata" / "timestamp.json").read_bytes())
    _edit(file, lambda document: document.update(root=timestamp))
    assert tool.error("verify", file, status=2) == "proposal"


def test_a_key_under_another_keys_keyid_is_refused(tool: RepoTools, file: Path, dora: Path) -> None:
    tool.root("add-key", file, "dora", _public(dora))

    def swap(document: Any) -> None:
        signed = document["root"]["signed"]
        keyid = signed["roles"]["root"]["keyids"][-1]
        signed["keys"][keyid]["keyval"]["public"] = "00" * 32

    _edit(file, swap)
    assert tool.error("verify", file, status=2) == "signing-key"


def test_a_key_that_was_removed_earlier_cannot_sign(tool: RepoTools, holders: list[Path], file: Path) -> None:
    tool.root("remove-key", file, "root-1")
    tool.sign(file, *holders[1:])
    tool.root("publish", file)
    third = file.with_name("root-3.json")
    tool.root("renew", third)
    tool.sign(third, holders[1])
    assert tool.error("sign", third, "--key", f"file2:{holders[0]}", status=2) == "key-not-of-role"
    proposal = proposal_in(third)
    removed = tool.root_json("public-key", f"file2:{holders[0]}")["keyid"]
    private: Any = load_pem_private_key(holders[0].read_bytes(), None)
    signature = CryptoSigner(private).sign(proposal.new.signed_bytes)
    assert signature.keyid == removed
    proposal.new.signatures[removed] = signature
    third.write_bytes(proposal.to_bytes())
    before = tree_digest(tool.folder)
    assert tool.error("publish", third, status=1) == "proposal-tampered"
    assert tool.error("verify", third, status=1) == "proposal-tampered"
    assert tree_digest(tool.folder) == before


def test_a_proposal_for_an_older_root_is_stale(tool: RepoTools, holders: list[Path], file: Path) -> None:
    late = file.with_name("late.json")
    tool.root("renew", late)
    tool.root("remove-key", file, "root-3")
    for proposal in (file, late):
        tool.sign(proposal, *holders[:2])
    tool.root("publish", file)
    before = tree_digest(tool.folder)
    assert tool.error("publish", late, status=1) == "proposal-stale"
    assert tool.error("verify", late, status=1) == "proposal-stale"
    assert tool.error("sign", late, "--key", f"file2:{holders[2]}", status=1) == "proposal-stale"
    assert tree_digest(tool.folder) == before


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
    tool: RepoTools, holders: list[Path], file: Path, dora: Path, signers: list[int], missing: tuple[int, int]
) -> None:
    tool.root("rotate", file, "root-1", "dora", _public(dora))
    tool.sign(file, *([*holders, dora][number] for number in signers))
    before = tree_digest(tool.folder)
    sides = tool.root_json("verify", file, status=1)["signatures"]
    assert tuple(side["missing"] for side in sides) == missing
    assert tool.error("publish", file, status=1) == "proposal-incomplete"
    assert tree_digest(tool.folder) == before


def test_an_expired_proposal_is_not_published(tool: RepoTools, holders: list[Path], file: Path) -> None:
    tool.root("renew", file)
    proposal = proposal_in(file)
    proposal.root.expires = datetime(2026, 1, 1, tzinfo=UTC)
    file.write_bytes(proposal.to_bytes())
    tool.sign(file, *holders[:2])
    before = tree_digest(tool.folder)
    assert tool.error("publish", file, status=2) == "proposal"
    assert "has already expired" in tool.root_json("verify", file)["warnings"][0]
    assert tree_digest(tool.folder) == before


# Every change is reported.


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
def test_every_difference_is_reported(
    pristine: SmallRepository, change: Callable[[Root], None], code: str
) -> None:
    old, new = _root(pristine), _root(pristine)
    assert {item.code for item in differences(old, new)} == {"expires"}
    change(new)
    told = differences(old, new)
    assert code in {item.code for item in told}
    assert all(item.text.isprintable() for item in told)


def test_dangerous_changes_of_the_root_are_warned_of(pristine: SmallRepository) -> None:
    old, new = _root(pristine), _root(pristine)
    assert warnings(old, new, pristine.now) == []
    new.roles["root"].threshold = 1
    new.roles["timestamp"].keyids = [new.roles["root"].keyids[0]]
    new.expires += timedelta(weeks=520)
    found = "\n".join(warnings(old, new, pristine.now))
    for fact in ("a single root key", "signs for root and for timestamp", "it is valid for"):
        assert fact in found
    leak = _root(pristine)
    leak.roles["snapshot"].keyids = leak.roles["targets"].keyids
    assert "change both" in warnings(old, leak, pristine.now)[0]


@pytest.mark.parametrize(
    ("role", "other"), [("snapshot", "timestamp"), ("timestamp", "snapshot"), ("timestamp", "targets")]
)
def test_half_a_rotation_after_a_leak_is_warned_of_both_ways(
    pristine: SmallRepository, role: str, other: str
) -> None:
    old = _root(pristine)
    shared = old.roles[role].keyids[0]
    old.roles[other].keyids.append(shared)
    new = deepcopy(old)
    new.roles[role].keyids = [new.roles["root"].keyids[0]]
    found = "\n".join(warnings(old, new, pristine.now))
    assert f"is removed from {role} and still signs for {other}" in found
    if other != "targets":
        assert f"the {role} key changes and the {other} key does not: after a leak change both" in found


# The rehearsal.


def test_a_rehearsal_goes_through_everything(tool: RepoTools, tmp_path: Path) -> None:
    before = tree_digest(tool.folder)
    document = tool.root_json("rehearse", "--keep", tmp_path / "kept")
    assert document["holders"] == ["root-1", "root-2", "root-3"]
    acts = list(dict.fromkeys(step["act"] for step in document["steps"]))
    assert acts == ["a new repository", "root-1 has lost a root key", "the online keys have leaked"]
    assert any(step["status"] == 1 and "root publish" in step["command"] for step in document["steps"])
    assert (tmp_path / "kept" / "repository" / "metadata" / "3.root.json").is_file()
    assert tree_digest(tool.folder) == before
    tool.root("rehearse", "--keep", tmp_path / "kept", status=2)


def test_a_rehearsal_without_a_key_to_spare_reports_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tool: RepoTools, holders: list[Path], file: Path
) -> None:
    assert "1 can be lost" in RepoTools(tmp_path, capsys).root("rehearse")
    tool.root("threshold", file, 3)
    tool.sign(file, *holders)
    tool.root("publish", file)
    text = tool.root("rehearse")
    assert "no new root can ever be signed" in text
    assert "has lost" not in text
