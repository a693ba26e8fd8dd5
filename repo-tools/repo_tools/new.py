"""A new repository: keys, root, empty manifest, all signed, ready to serve.

Rules:

* every role has keys of its own; root has a real threshold (2 of 3 unless told otherwise);
* a folder that holds anything is refused;
* all or nothing: ``repo.toml`` is written last, and no command writes into a folder without it; what a
  killed run left is cleared away by the next (see :mod:`repo_tools.all_or_nothing`);
* a first root that came out of a ceremony is taken as it is: then no key is made here;
* nothing is created before the signers that were given have been read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from repo_tools import config, editor
from repo_tools.all_or_nothing import all_or_nothing, require_empty
from repo_tools.errors import ConfigError, ForeignKeyError
from repo_tools.holders import Holder, set_name
from repo_tools.images import Staged
from repo_tools.keys import (
    TEST_KEY_NOTE,
    KeySource,
    Secrets,
    SignerStore,
    create_test_key,
    no_secrets,
    source,
)
from repo_tools.session import MANIFEST
from repo_tools.signing import sign
from repo_tools.store import LOCK, STAGING, Store
from signpost.errors import MediumError
from signpost.medium import OsMedium
from updog import durable
from updog.update_metadata.errors import FaultsError
from updog.update_metadata.fields import nearest
from updog.update_metadata.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path

    from tuf.api.metadata import Root

    from repo_tools.proposal import Proposal
    from updog.durable import Medium

KEYS = "keys"
DEFAULT_NAME = "os"
_OURS = frozenset({f"{config.FILE}.tmp", KEYS, "metadata", "targets", STAGING, LOCK})
_README = f"""\
{TEST_KEY_NOTE}

These private keys were made by `repo-tools new` and lie on this disk in the clear, or under one passphrase.
They are for trying things out and for CI. A fleet that matters gets root keys that are kept offline and
online keys in a KMS or HSM: `repo-tools new --signer ROLE=URI`.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a new repository should be.

    Attributes:
        name: first word of every image's name.
        root_threshold: signatures a root needs. root_keys: test keys made for root.
        signers: role → ``URI`` or ``URI,PUBLIC.pem`` words; test keys are made for roles without any.
        expires: how long signatures of each role last.
        passphrase: encrypts the test keys, where given.
        first_root: the root 1 that a ceremony made, in place of root keys.
    """

    name: str = DEFAULT_NAME
    root_threshold: int = 2
    root_keys: int = 3
    signers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    expires: Mapping[str, timedelta] = field(default_factory=config.parse_expires)
    passphrase: str | None = None
    first_root: Proposal | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Created:
    """What was made.

    Attributes:
        folder: the repository. root_json: what nodes are shipped with, to trust it.
        keyids: role → its keys. test_keys: files of private keys that must not guard anything real.
    """

    folder: Path
    root_json: Path
    root_threshold: int
    keyids: Mapping[str, Sequence[str]]
    test_keys: Sequence[Path]

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        return {
            "repository": str(self.folder),
            "root_json": str(self.root_json),
            "root_threshold": self.root_threshold,
            "keyids": {role: list(keyids) for role, keyids in self.keyids.items()},
            "test_keys": [str(path) for path in self.test_keys],
        }


def parse_signers(words: Sequence[str]) -> dict[str, list[str]]:
    """Return role → URIs of ``ROLE=URI`` words. Raises ConfigError."""
    signers: dict[str, list[str]] = {}
    for word in words:
        role, equals, uri = word.partition("=")
        if role not in config.ROLES or not equals or not uri:
            raise ConfigError(
                f"--signer {word}: not ROLE=URI{nearest(role, config.ROLES)}",
                next_step="Write it as root=file2:/path/key.pem; roles are " + ", ".join(config.ROLES) + ".",
            )
        signers.setdefault(role, []).append(uri)
    return signers


def create(
    folder: Path,
    *,
    now: datetime,
    plan: Plan | None = None,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> Created:
    """Make a repository in ``folder``, which must be empty or not exist yet.

    Args:
        folder: where.
        now: when it is signed.
        plan: what it should be; the defaults make a test repository.
        medium: written through.
        secrets: asked for the passphrases of given keys.

    Raises:
        RepositoryExistsError: the folder holds something. ConfigError: the plan contradicts itself.
        SigningKeyError: a given key cannot be used. MediumError: writing failed.
    """
    plan = plan or Plan()
    medium = medium or OsMedium()
    require_empty(folder, _OURS)
    _check_name(plan)
    given = _given_keys(plan, secrets)
    if plan.first_root:
        _check_first_root(plan.first_root, given, now)
    else:
        _check_threshold(plan, given)
    store = Store(folder, medium)
    with all_or_nothing(folder, medium, _OURS):
        return _fill(store, plan, given, now, secrets)


def _fill(
    store: Store, plan: Plan, given: Mapping[str, Sequence[KeySource]], now: datetime, secrets: Secrets
) -> Created:
    store.lay_out()
    ceremony = plan.first_root
    roles = () if ceremony else [role for role in config.ROLES if role not in given]
    made = _make_test_keys(store, plan, roles)
    sources = {role: given.get(role, made.get(role, [])) for role in config.ROLES}
    settings = _settings(plan, sources)
    signers = SignerStore(uris=settings.signers, folder=store.folder, secrets=_with_passphrase(plan, secrets))
    root = ceremony.root if ceremony else _first_root(plan, sources, made, now)
    first = ceremony.new.to_bytes() if ceremony else sign(root, signers, root)
    _sign_first(store, settings, signers, (root, first), now)
    durable.write_bytes(store.medium, store.folder / config.FILE, _toml(settings, sources).encode())
    return _created(store.folder, root, made)


def _check_name(plan: Plan) -> None:
    try:
        config.target_word(plan.name)
    except FaultsError as error:
        raise ConfigError(
            f"--name: {error.faults[0]}", next_step="Use letters, digits, '.', '_', '-'."
        ) from error


def _given_keys(plan: Plan, secrets: Secrets) -> dict[str, list[KeySource]]:
    """Return the keys given by role, each tried out: what cannot be used is refused now."""
    from pathlib import Path

    here = Path().absolute()
    given = {role: [source(word, here, secrets) for word in words] for role, words in plan.signers.items()}
    for item in (item for items in given.values() for item in items):
        SignerStore(uris={item.key.keyid: item.uri}, folder=here, secrets=secrets).of([item.key])
    return given


def _check_threshold(plan: Plan, given: Mapping[str, Sequence[KeySource]]) -> None:
    keyids = {item.key.keyid for item in given.get("root", ())}
    count = len(keyids) if "root" in given else plan.root_keys
    if not 1 <= plan.root_threshold <= count:
        raise ConfigError(
            f"a root threshold of {plan.root_threshold} with {count} root keys can never be met",
            next_step="Choose --root-threshold between 1 and the number of root keys.",
        )


def _check_first_root(proposal: Proposal, given: Mapping[str, Sequence[KeySource]], now: datetime) -> None:
    """Refuse a root 1 that is not finished, or whose online keys are not all at hand."""
    if proposal.base:
        raise ConfigError(
            f"--root proposes root {proposal.root.version}; a repository begins with root 1",
            next_step="Publish it in its repository: `repo-tools root publish`.",
        )
    proposal.require_complete()
    if proposal.root.expires <= now:
        raise ConfigError(
            f"--root has expired on {proposal.root.expires:%Y-%m-%d}", next_step="Make a new proposal."
        )
    for role, rule in proposal.root.roles.items():
        keyids = {item.key.keyid for item in given.get(role, ())}
        strangers = sorted(keyids - set(rule.keyids))
        if strangers:
            raise ForeignKeyError(f"the key {strangers[0][:12]} given for {role} is no {role} key of --root")
        if role != "root" and len(keyids) < rule.threshold:
            raise ConfigError(
                f"{role}: {len(keyids)} of the {rule.threshold} keys that sign for it are given",
                next_step=f"Pass --signer {role}=URI for them.",
            )


def _make_test_keys(store: Store, plan: Plan, roles: Sequence[str]) -> dict[str, list[KeySource]]:
    keys = store.folder / KEYS
    if not roles:
        return {}
    try:
        keys.mkdir(mode=0o700)
    except OSError as error:
        raise MediumError(f"cannot make {keys}: {error.strerror}") from error
    durable.write_bytes(store.medium, keys / "README", _README.encode())
    return {
        role: [
            create_test_key(store.medium, keys / f"{name}.pem", plan.passphrase)
            for name in _names(plan, role)
        ]
        for role in roles
    }


def _names(plan: Plan, role: str) -> list[str]:
    return [f"root-{number}" for number in range(1, plan.root_keys + 1)] if role == "root" else [role]


def _settings(plan: Plan, sources: Mapping[str, Sequence[KeySource]]) -> config.Config:
    signers = {item.key.keyid: item.uri for items in sources.values() for item in items}
    return config.Config(name=plan.name, expires=plan.expires, signers=signers)


def _with_passphrase(plan: Plan, secrets: Secrets) -> Secrets:
    passphrase = plan.passphrase
    return secrets if passphrase is None else lambda _name: passphrase


def _first_root(
    plan: Plan,
    sources: Mapping[str, Sequence[KeySource]],
    made: Mapping[str, Sequence[KeySource]],
    now: datetime,
) -> Root:
    root = editor.first_root(
        {role: [item.key for item in items] for role, items in sources.items()},
        root_threshold=plan.root_threshold,
        expires=editor.expiry(now, plan.expires["root"]),
    )
    for role, items in made.items():
        for name, item in zip(_names(plan, role), items, strict=True):
            set_name(root, Holder(name=name, key=item.key))
    return root


def _sign_first(
    store: Store, settings: config.Config, signers: SignerStore, first: tuple[Root, bytes], now: datetime
) -> None:
    """Sign and write version 1 of every role over an empty manifest; the root is signed already."""
    root, first_root = first
    manifest = Manifest.empty().to_json()
    digest = hashlib.sha256(manifest).hexdigest()
    listed = editor.target_file(MANIFEST, length=len(manifest), sha256=digest)
    ends = {role: editor.expiry(now, settings.expires[role]) for role in config.ROLES}
    targets = sign(
        editor.targets_after(None, {MANIFEST: listed}, version=1, expires=ends["targets"]), signers, root
    )
    snapshot = sign(
        editor.snapshot_after(
            None, {"targets": editor.meta_file(targets, 1)}, version=1, expires=ends["snapshot"]
        ),
        signers,
        root,
    )
    timestamp = sign(
        editor.timestamp_after(None, editor.meta_file(snapshot, 1), version=1, expires=ends["timestamp"]),
        signers,
        root,
    )
    path = store.staging / MANIFEST
    durable.write_bytes(store.medium, path, manifest)
    store.place([Staged(name=MANIFEST, path=path, length=len(manifest), sha256=digest)])
    files = {"root": first_root, "targets": targets, "snapshot": snapshot, "timestamp": timestamp}
    store.write_metadata({role: (1, data) for role, data in files.items()})


def _toml(settings: config.Config, sources: Mapping[str, Sequence[KeySource]]) -> str:
    comments: dict[str, str] = {}
    for role, items in sources.items():
        for item in items:
            keyid = item.key.keyid
            comments[keyid] = f"{comments[keyid]}, {role}" if keyid in comments else role
    return config.template(settings, comments)


def _created(folder: Path, root: Root, made: Mapping[str, Sequence[KeySource]]) -> Created:
    return Created(
        folder=folder,
        root_json=folder / "metadata" / "1.root.json",
        root_threshold=root.roles["root"].threshold,
        keyids={role: root.roles[role].keyids for role in config.ROLES},
        test_keys=[folder / item.uri.removeprefix("file2:") for items in made.values() for item in items],
    )
