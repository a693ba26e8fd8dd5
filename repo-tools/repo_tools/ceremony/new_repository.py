"""Create a new repository: keys, root, empty manifest, all signed, ready to serve.

Rules:

* every role has its own keys; root has a real threshold (2 of 3 by default);
* a folder that is not empty is refused;
* all or nothing: ``repo.toml`` is written last, and no command writes into a folder without it; the next run
  removes what a killed run left (see :mod:`repo_tools.atomic_folder`);
* a first root from a ceremony is used unchanged: then no key is created;
* nothing is created before the given signers have been read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from repo_tools import config
from repo_tools.atomic_folder import all_or_nothing, require_empty
from repo_tools.errors import ConfigError, KeyNotOfRoleError
from repo_tools.images.packing import Staged
from repo_tools.keys.holders import Holder, set_holder_name, short_keyid
from repo_tools.keys.signers import (
    TEST_KEY_NOTE,
    KeySource,
    Secrets,
    SignerStore,
    create_test_key,
    key_source,
    no_secrets,
)
from repo_tools.keys.signing import sign
from repo_tools.readable import readable_medium
from repo_tools.repository import editor
from repo_tools.repository.published import MANIFEST
from repo_tools.repository.store import LOCK, STAGING, Store
from signpost.errors import MediumError
from updog import durable
from updog.update_metadata.errors import FaultsError
from updog.update_metadata.fields import did_you_mean
from updog.update_metadata.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path

    from tuf.api.metadata import Root

    from repo_tools.ceremony.root_proposal import Proposal
    from updog.durable import Medium

__all__ = ["Created", "RepositoryPlan", "create"]

KEYS = "keys"
DEFAULT_NAME = "os"
_KNOWN_NAMES = frozenset({f"{config.FILE}.tmp", KEYS, "metadata", "targets", STAGING, LOCK})
_README = f"""\
{TEST_KEY_NOTE}

These private keys were created by `repo-tools new` and are stored on this disk, unencrypted or under one
passphrase. They are for experiments and for CI. For a production fleet, keep root keys offline and online
keys in a KMS or HSM: `repo-tools new --signer ROLE=URI`.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RepositoryPlan:
    """The properties of a new repository.

    Attributes:
        name: first word of every image's name.
        root_threshold: number of signatures that a root requires. root_keys: number of test keys for root.
        signers: role → ``URI`` or ``URI,PUBLIC.pem``; test keys are created for roles without any.
        expires: role → how long its signatures are valid.
        passphrase: encrypts the test keys, if given.
        first_root: root 1 from a ceremony, instead of root keys.
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
    """The created repository.

    Attributes:
        folder: of the repository. root_json: the root that nodes are shipped with, to trust the repository.
        root_threshold: number of signatures that a root requires. keyids: role → its keys.
        test_keys: files of private keys that must not be used in production.
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
    """Return role → URIs from ``ROLE=URI`` texts. Raises ConfigError."""
    signers: dict[str, list[str]] = {}
    for word in words:
        role, equals, uri = word.partition("=")
        if role not in config.ROLES or not equals or not uri:
            raise ConfigError(
                f"--signer {word}: not ROLE=URI{did_you_mean(role, config.ROLES)}",
                next_step="Write it as root=file2:/path/key.pem; roles are " + ", ".join(config.ROLES) + ".",
            )
        signers.setdefault(role, []).append(uri)
    return signers


def create(
    folder: Path,
    *,
    now: datetime,
    plan: RepositoryPlan | None = None,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> Created:
    """Create a repository in ``folder``, which must be empty or not exist yet.

    Args:
        folder: of the repository.
        now: the time of signing.
        plan: its properties; the defaults create a test repository.
        medium: everything is written through it.
        secrets: gives the passphrases of given keys.

    Raises:
        RepositoryExistsError: the folder is not empty. ConfigError: the plan contradicts itself.
        SigningKeyError: a given key cannot be used. MediumError: writing failed.
    """
    plan = plan or RepositoryPlan()
    medium = medium or readable_medium()
    require_empty(folder, _KNOWN_NAMES)
    try:
        config.target_word(plan.name)
    except FaultsError as error:
        raise ConfigError(f"--name: {error.faults[0]}", next_step="Choose another --name.") from error
    given = _given_keys(plan, secrets)
    if plan.first_root:
        _check_first_root(plan.first_root, given, now)
    else:
        _check_threshold(plan, given)
    with all_or_nothing(folder, medium, _KNOWN_NAMES):
        return _fill(Store(folder, medium), plan, given, now, secrets)


def _fill(
    store: Store,
    plan: RepositoryPlan,
    given: Mapping[str, Sequence[KeySource]],
    now: datetime,
    secrets: Secrets,
) -> Created:
    store.create_folders()
    ceremony, passphrase = plan.first_root, plan.passphrase
    roles = () if ceremony else [role for role in config.ROLES if role not in given]
    test_keys = _create_test_keys(store, plan, roles)
    keys = {role: given.get(role, test_keys.get(role, [])) for role in config.ROLES}
    uris = {item.key.keyid: item.uri for items in keys.values() for item in items}
    settings = config.Config(name=plan.name, expires=plan.expires, signers=uris)
    signers = SignerStore(
        uris=uris,
        folder=store.folder,
        secrets=secrets if passphrase is None else lambda _name: passphrase,
    )
    root = ceremony.root if ceremony else _first_root(plan, keys, test_keys, now)
    root_file = ceremony.new.to_bytes() if ceremony else sign(root, signers, root)
    _write_first_versions(store, settings, signers, (root, root_file), now)
    roles_of: dict[str, list[str]] = {}
    for role, items in keys.items():
        for item in items:
            roles_of.setdefault(item.key.keyid, []).append(role)
    comments = {keyid: ", ".join(roles) for keyid, roles in roles_of.items()}
    text = config.template(settings, comments)
    durable.write_bytes(store.medium, store.folder / config.FILE, text.encode())
    return Created(
        folder=store.folder,
        root_json=store.folder / "metadata" / "1.root.json",
        root_threshold=root.roles["root"].threshold,
        keyids={role: root.roles[role].keyids for role in config.ROLES},
        test_keys=[
            store.folder / item.uri.removeprefix("file2:") for items in test_keys.values() for item in items
        ],
    )


def _given_keys(plan: RepositoryPlan, secrets: Secrets) -> dict[str, list[KeySource]]:
    """Return role → given keys, after testing each: an unusable key is refused before anything is created."""
    from pathlib import Path

    here = Path().absolute()
    given = {
        role: [key_source(word, here, secrets) for word in words] for role, words in plan.signers.items()
    }
    for item in (item for items in given.values() for item in items):
        SignerStore(uris={item.key.keyid: item.uri}, folder=here, secrets=secrets).of([item.key])
    return given


def _check_threshold(plan: RepositoryPlan, given: Mapping[str, Sequence[KeySource]]) -> None:
    keyids = {item.key.keyid for item in given.get("root", ())}
    count = len(keyids) if "root" in given else plan.root_keys
    if not 1 <= plan.root_threshold <= count:
        raise ConfigError(
            f"a root threshold of {plan.root_threshold} with {count} root keys can never be met",
            next_step="Choose --root-threshold between 1 and the number of root keys.",
        )


def _check_first_root(proposal: Proposal, given: Mapping[str, Sequence[KeySource]], now: datetime) -> None:
    """Refuse a root 1 that is not complete, or whose online keys are not all given."""
    if proposal.base:
        raise ConfigError(
            f"--root is root {proposal.root.version}; a new repository needs root 1",
            next_step="Publish it in its repository: `repo-tools root publish`.",
        )
    proposal.require_complete()
    if proposal.root.expires <= now:
        raise ConfigError(
            f"--root expired on {proposal.root.expires:%Y-%m-%d}", next_step="Create a new proposal."
        )
    for role, rule in proposal.root.roles.items():
        keyids = {item.key.keyid for item in given.get(role, ())}
        unknown = sorted(keyids - set(rule.keyids))
        if unknown:
            raise KeyNotOfRoleError(
                f"the key {short_keyid(unknown[0])} given for {role} is not a {role} key of --root"
            )
        if role != "root" and len(keyids) < rule.threshold:
            raise ConfigError(
                f"{role}: {len(keyids)} of the {rule.threshold} required keys are given",
                next_step=f"Pass --signer {role}=URI for the others.",
            )


def _create_test_keys(store: Store, plan: RepositoryPlan, roles: Sequence[str]) -> dict[str, list[KeySource]]:
    keys = store.folder / KEYS
    if not roles:
        return {}
    try:
        keys.mkdir(mode=0o700)
    except OSError as error:
        raise MediumError.of(f"cannot create {keys}: {error.strerror}", error) from error
    durable.write_bytes(store.medium, keys / "README", _README.encode())
    return {
        role: [
            create_test_key(store.medium, keys / f"{name}.pem", plan.passphrase)
            for name in _test_key_names(plan, role)
        ]
        for role in roles
    }


def _test_key_names(plan: RepositoryPlan, role: str) -> list[str]:
    return [f"root-{number}" for number in range(1, plan.root_keys + 1)] if role == "root" else [role]


def _first_root(
    plan: RepositoryPlan,
    keys: Mapping[str, Sequence[KeySource]],
    test_keys: Mapping[str, Sequence[KeySource]],
    now: datetime,
) -> Root:
    root = editor.first_root(
        {role: [item.key for item in items] for role, items in keys.items()},
        root_threshold=plan.root_threshold,
        expires=editor.expiry(now, plan.expires["root"]),
    )
    for role, items in test_keys.items():
        for name, item in zip(_test_key_names(plan, role), items, strict=True):
            set_holder_name(root, Holder(name=name, key=item.key))
    return root


def _write_first_versions(
    store: Store, settings: config.Config, signers: SignerStore, first_root: tuple[Root, bytes], now: datetime
) -> None:
    """Write version 1 of every role and an empty manifest; the root is already signed."""
    root, root_file = first_root
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
        editor.timestamp_after(
            None, editor.meta_file(snapshot, 1), version=1, expires=ends["timestamp"], now=now
        ),
        signers,
        root,
    )
    path = store.staging / MANIFEST
    durable.write_bytes(store.medium, path, manifest)
    store.place([Staged(name=MANIFEST, path=path, length=len(manifest), sha256=digest)])
    files = {"root": root_file, "targets": targets, "snapshot": snapshot, "timestamp": timestamp}
    store.write_metadata({role: (1, data) for role, data in files.items()})
