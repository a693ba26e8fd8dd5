"""The keys that a command is given for a role: those that are available here, and those of other holders."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from repo_tools.errors import ChannelError
from repo_tools.keys.holders import MAX_NAME, Holder, is_holder_name, named_key
from repo_tools.keys.signers import KeySource, Secrets, given_key, load_public

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from securesystemslib.signer import Key


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenKeys:
    """Keys for a role that the top-level targets delegate to.

    Attributes:
        signers: available keys. public_keys: keys of other holders.
        names: keyid → name of the key's holder, where known.
    """

    signers: Sequence[KeySource] = ()
    public_keys: Sequence[Key] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def keys(self) -> list[Key]:
        """All keys, without duplicates."""
        keys = [*(item.key for item in self.signers), *self.public_keys]
        return list({key.keyid: key for key in keys}.values())

    @property
    def uris(self) -> dict[str, str]:
        """Where the available keys are, by keyid."""
        return {item.key.keyid: item.uri for item in self.signers}

    def holders(self) -> list[Holder]:
        """Return the holders of all keys. Raises ChannelError for a name that is not one printable line."""
        for name in self.names.values():
            if not is_holder_name(name):
                raise ChannelError(
                    f"{name!r} cannot be the name of a key's holder",
                    next_step=f"Use up to {MAX_NAME} printable characters.",
                )
        return [Holder(name=self.names.get(key.keyid, ""), key=key) for key in self.keys]


def given_keys(signers: Iterable[str], public_keys: Iterable[str], repo: Path, secrets: Secrets) -> GivenKeys:
    """Return the keys that are named on the command line.

    Args:
        signers: ``[NAME=]URI[,PUBLIC.pem]``, keys that are available here.
        public_keys: ``[NAME=]FILE.pem``, keys that others have.
        repo: the folder of the repository; see :func:`repo_tools.keys.signers.given_key`.
        secrets: gives passphrases and PINs.

    Raises:
        SigningKeyError: a key cannot be read, or has a type that not every client verifies.
    """
    available, others, names = [], [], {}
    for text in signers:
        holder, uri = named_key(text)
        available.append(given_key(uri, repo, secrets))
        names[available[-1].key.keyid] = holder
    for text in public_keys:
        holder, path = named_key(text)
        others.append(load_public(Path(path)))
        names[others[-1].keyid] = holder
    known = {keyid: holder for keyid, holder in names.items() if holder}
    return GivenKeys(signers=available, public_keys=others, names=known)
