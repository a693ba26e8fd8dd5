"""Metadata as pubsys, tough, go-tuf and old sigstore roots have them are read; no check is weaker."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.formats import encode_canonical
from tuf.api.metadata import Metadata, MetaFile, Root

from repo_tools.copies.clone import copy, verify_source
from repo_tools.repository.published import published_targets
from repo_tools.trust.chain import walk
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep.check import check
from signpost.medium import OsMedium
from tests.support.http_server import HttpServer
from tests.support.tuf_repositories import TufRepository, signer
from updog.errors import ExpiredError, SignatureError, TrustError
from updog.transport import HttpTransport, TransportSettings
from updog.trust import Trust, TrustedRoot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = datetime.now(UTC).replace(microsecond=0)
LATER = NOW + timedelta(days=30)


def nanoseconds(moment: datetime) -> str:
    """As chrono writes a time for pubsys."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.123456789Z"


def offset(moment: datetime) -> str:
    """As Go writes a local time."""
    return f"{moment - timedelta(hours=6):%Y-%m-%dT%H:%M:%S}.99008-06:00"


def whole_offset(moment: datetime) -> str:
    return f"{moment + timedelta(hours=5, minutes=30):%Y-%m-%dT%H:%M:%S}+05:30"


FORMS = [nanoseconds, offset, whole_offset]


def _canonical(signed: dict[str, Any]) -> bytes:
    return (encode_canonical(signed) or "").encode()


def sign(signed: dict[str, Any], role: str) -> bytes:
    """Sign a document as its publisher would: over its own canonical form."""
    key = signer(f"{role} 0")
    signature = key.sign(_canonical(signed))
    signatures = [{"keyid": key.public_key.keyid, "sig": signature.signature}]
    return json.dumps({"signed": signed, "signatures": signatures}, indent=2).encode()


def foreign_repository(form: Callable[[datetime], str], *, expires: datetime = LATER) -> TufRepository:
    """Return a repository whose metadata all have their expiry in another form."""
    repository = TufRepository({"manifest.json": b'{"updates": [], "migrations": {}}', "a": b"content"})
    files = repository.files
    for role in ("root", "targets", "snapshot", "timestamp"):
        name = "metadata/timestamp.json" if role == "timestamp" else f"metadata/1.{role}.json"
        signed = json.loads(files[name])["signed"]
        signed["expires"] = form(expires)
        if role == "timestamp":
            data = files["metadata/1.snapshot.json"]
            meta = MetaFile.from_data(1, data, ["sha256"])
            signed["meta"] = {"snapshot.json": meta.to_dict()}
        files[name] = sign(signed, role)
    return repository


def trust_of(folder: Path, server: HttpServer, root: bytes) -> Trust:
    return Trust(
        folder,
        bootstrap=TrustedRoot(path=folder / "root.json", data=root),
        metadata_url=server.url("metadata/"),
        transport=HttpTransport(TransportSettings(tries=1)),
        medium=OsMedium(),
    )


def written(repository: TufRepository, folder: Path) -> FolderSource:
    return FolderSource(repository.write_to(folder))


@pytest.mark.parametrize("form", FORMS)
def test_a_node_follows_a_repository_whose_expiries_have_another_form(
    tmp_path: Path, form: Callable[[datetime], str]
) -> None:
    repository = foreign_repository(form)
    with HttpServer(repository.files) as server:
        for _ in range(2):  # the second time from the kept files
            trust = trust_of(tmp_path / "tuf", server, repository.first_root)
            trust.refresh(NOW)
            assert trust.target("a").length == 7


@pytest.mark.parametrize("form", FORMS)
def test_it_is_mirrored_byte_for_byte_and_validated(tmp_path: Path, form: Callable[[datetime], str]) -> None:
    repository = foreign_repository(form)
    source = written(repository, tmp_path / "source")
    assert [found.code for found in check(source, now=NOW).findings] == ["root-threshold-one"]
    verified = verify_source(source, tmp_path / "copy", trusted_root=repository.first_root, now=NOW)
    copy(verified, tmp_path / "copy", published_targets(verified.chain))
    for path, data in repository.files.items():
        assert (tmp_path / "copy" / path).read_bytes() == data
    chain = walk(FolderSource(tmp_path / "copy"))
    assert chain.findings == []
    assert chain.timestamp
    assert chain.timestamp.signed.expires == LATER


@pytest.mark.parametrize("form", FORMS)
def test_the_signature_is_over_the_text_that_was_signed(
    tmp_path: Path, form: Callable[[datetime], str]
) -> None:
    """Another text of the same moment was not signed, and neither was another fraction of that second."""
    original = foreign_repository(form)
    data = original.files["metadata/timestamp.json"]
    text = form(LATER)
    for other in (f"{LATER:%Y-%m-%dT%H:%M:%SZ}", f"{LATER:%Y-%m-%dT%H:%M:%S}.5Z", f"{LATER.isoformat()}"):
        repository = foreign_repository(form)
        repository.files["metadata/timestamp.json"] = data.replace(text.encode(), other.encode())
        assert repository.files["metadata/timestamp.json"] != data
        with HttpServer(repository.files) as server, pytest.raises(SignatureError):
            trust_of(tmp_path / "tuf", server, repository.first_root).refresh(NOW)
        source = written(repository, tmp_path / "source")
        assert [finding.code for finding in walk(source).findings] == ["metadata-signature"]


@pytest.mark.parametrize("letters", [("T", "t"), ("Z", "z"), ("T0", "T")])
def test_a_loose_spelling_of_the_plain_form_is_not_what_was_signed(
    tmp_path: Path, letters: tuple[str, str]
) -> None:
    """strptime, which python-tuf asks, reads letters of either case and hours of one digit."""
    moment = LATER.replace(hour=3)
    repository = foreign_repository(lambda _: f"{moment:%Y-%m-%dT%H:%M:%SZ}", expires=moment)
    data = repository.files["metadata/timestamp.json"]
    text = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
    repository.files["metadata/timestamp.json"] = data.replace(text.encode(), text.replace(*letters).encode())
    assert repository.files["metadata/timestamp.json"] != data
    with HttpServer(repository.files) as server, pytest.raises(SignatureError):
        trust_of(tmp_path / "tuf", server, repository.first_root).refresh(NOW)


@pytest.mark.parametrize("form", FORMS)
def test_metadata_expire_at_the_whole_second_before_what_was_signed(
    tmp_path: Path, form: Callable[[datetime], str]
) -> None:
    repository = foreign_repository(form)
    with HttpServer(repository.files) as server:
        trust_of(tmp_path / "a", server, repository.first_root).refresh(LATER - timedelta(seconds=1))
        with pytest.raises(ExpiredError):
            trust_of(tmp_path / "b", server, repository.first_root).refresh(LATER)
    expired = foreign_repository(form, expires=NOW - timedelta(seconds=1))
    with HttpServer(expired.files) as server, pytest.raises(ExpiredError):
        trust_of(tmp_path / "c", server, expired.first_root).refresh(NOW)


@pytest.mark.parametrize(
    "text",
    [
        "2030-01-02",
        "2030-01-02T03:04:05",
        "2030-01-02t03:04:05.1z",
        "2030-01-02T03:04:05.Z",
        "2030-01-02T03:04:05.1234567890Z",
        "2030-01-02T03:04:05.1+0000",
        "2030-01-02T03:04:60.1Z",
        "2030-02-30T03:04:05.1Z",
        "2030-01-02T03:04:05.1+25:00",
        "0001-01-01T00:00:00.1+23:00",
        "2030-01-02T03:04:05.1Z\n",
        "9999-12-31T23:59:59.1-01:00",
        "",
        None,
        5,
    ],
)
def test_any_other_form_is_refused(tmp_path: Path, text: object) -> None:
    repository = foreign_repository(nanoseconds)
    signed = json.loads(repository.files["metadata/timestamp.json"])["signed"]
    signed["expires"] = text
    repository.files["metadata/timestamp.json"] = sign(signed, "timestamp")
    with HttpServer(repository.files) as server, pytest.raises(TrustError, match=r"timestamp\.json"):
        trust_of(tmp_path / "tuf", server, repository.first_root).refresh(NOW)
    source = written(repository, tmp_path / "source")
    assert [finding.code for finding in walk(source).findings] == ["metadata-invalid"]


def test_what_is_changed_is_written_in_the_form_of_the_specification() -> None:
    data = foreign_repository(offset).files["metadata/1.root.json"]
    root = Metadata[Root].from_bytes(data)
    assert root.to_dict()["signed"]["expires"] == offset(LATER)
    root.signed.expires = LATER + timedelta(days=1)
    assert root.to_dict()["signed"]["expires"] == f"{LATER + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"


# -- keys of old sigstore roots ------------------------------------------------------------------------------


def _hexadecimal(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint).hex()


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _with_root_key(key: ec.EllipticCurvePrivateKey, public: str, keytype: str) -> TufRepository:
    """Return a repository whose root has one more signer, with an ECDSA key, and needs both signatures."""
    repository = foreign_repository(nanoseconds)
    signed = json.loads(repository.files["metadata/1.root.json"])["signed"]
    keyid = "ab" * 32
    signed["keys"][keyid] = {
        "keyid_hash_algorithms": ["sha256", "sha512"],
        "keytype": keytype,
        "keyval": {"public": public},
        "scheme": "ecdsa-sha2-nistp256",
    }
    signed["roles"]["root"]["keyids"].append(keyid)
    signed["roles"]["root"]["threshold"] = 2
    document = json.loads(sign(signed, "root"))
    signature = key.sign(_canonical(signed), ec.ECDSA(SHA256()))
    document["signatures"].append({"keyid": keyid, "sig": signature.hex()})
    repository.files["metadata/1.root.json"] = json.dumps(document).encode()
    return repository


@pytest.mark.parametrize("keytype", ["ecdsa", "ecdsa-sha2-nistp256"])
@pytest.mark.parametrize("encode", [_hexadecimal, _pem])
def test_an_ecdsa_key_counts_in_either_encoding(
    tmp_path: Path, keytype: str, encode: Callable[[ec.EllipticCurvePrivateKey], str]
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    repository = _with_root_key(key, encode(key), keytype)
    with HttpServer(repository.files) as server:
        trust_of(tmp_path / "tuf", server, repository.first_root).refresh(NOW)
    assert walk(written(repository, tmp_path / "source")).findings == []


@pytest.mark.parametrize("wrong", ["another key", "not on the curve", "too short", "compressed", "no hex"])
def test_a_hexadecimal_key_that_did_not_sign_or_is_none_counts_for_nothing(
    tmp_path: Path, wrong: str
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    compressed = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint).hex()
    public = {
        "another key": _hexadecimal(ec.generate_private_key(ec.SECP256R1())),
        "not on the curve": "04" + "11" * 64,
        "too short": _hexadecimal(key)[:-2],
        "compressed": compressed,
        "no hex": "04" + "zz" * 64,
    }[wrong]
    repository = _with_root_key(key, public, "ecdsa")
    with HttpServer(repository.files) as server, pytest.raises(TrustError):
        trust_of(tmp_path / "tuf", server, repository.first_root).refresh(NOW)
    findings = walk(written(repository, tmp_path / "source")).findings
    assert [finding.code for finding in findings] == ["root-invalid"]
