"""Hosts that are reached without the proxy, in every form in which other programs take them. PURE.

Each entry is one of:

* ``*``: all hosts;
* a name: the host itself and all hosts below it; ``.name`` and ``*.name`` mean the same;
* an IPv4 or IPv6 address, IPv6 with or without brackets, in any notation;
* a network in CIDR notation, IPv4 or IPv6, with or without brackets;
* a name or an address (IPv6 in brackets), a colon and a port: only this port.

An IPv4 address in IPv6 form (``::ffff:192.0.2.1``) is the IPv4 address. Zones (``%eth0``) are ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

_BRACKETED = re.compile(r"\[([^\[\]]+)\](/[0-9]{1,3})?(?::([0-9]{1,5}))?")
_WITH_PORT = re.compile(r"([^:]+):([0-9]{1,5})")
_NAME = re.compile(r"[^\s:/*\[\]@?#]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAPPED_BITS = 96  # of ::ffff:0:0/96


@dataclass(frozen=True, kw_only=True, slots=True)
class NoProxyEntry:
    """One entry: a network, or a name; and the port if only one is meant. The name ``*`` means all."""

    network: IPv4Network | IPv6Network | None = None
    name: str = ""
    port: int | None = None

    def __str__(self) -> str:
        place = self.name or str(self.network).removesuffix("/32").removesuffix("/128")
        if self.port is None:
            return place
        return f"[{place}]:{self.port}" if ":" in place else f"{place}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> NoProxyEntry:
        """Read one entry. Raises ValueError."""
        if match := _BRACKETED.fullmatch(text):
            place, prefix, digits = match[1], match[2] or "", match[3]
            return cls(network=_network(place + prefix), port=_port(digits))
        digits = None
        if match := _WITH_PORT.fullmatch(text):
            text, digits = match.groups()
        port = _port(digits)
        try:
            return cls(network=_network(text), port=port)
        except ValueError:
            name = text if text == "*" else text.removeprefix("*.").strip(".").lower()
            is_number = "/" in name or name.replace(".", "").isdecimal()
            if name != "*" and (is_number or not _NAME.fullmatch(name)):
                raise
        return cls(name=name, port=port)

    def matches(self, host: str, port: int) -> bool:
        """Return whether a host, as in a URL but without brackets, and a port are meant."""
        if self.port not in {None, port}:
            return False
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            name = host.rstrip(".").lower()
            return self.name == "*" or (bool(self.name) and f".{name}".endswith(f".{self.name}"))
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return self.name == "*" or (self.network is not None and address in self.network)


def entries_of(texts: tuple[str, ...]) -> tuple[NoProxyEntry, ...]:
    """Read all entries; one text may have several, separated by commas. Raises ValueError."""
    return tuple(
        NoProxyEntry.parse(part.strip()) for text in texts for part in text.split(",") if part.strip()
    )


def goes_round(url: str, entries: tuple[NoProxyEntry, ...]) -> bool:
    """Return whether a request to ``url`` is sent without the proxy. Raises ValueError for an invalid URL."""
    parts = urlsplit(url)
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    return parts.hostname is None or any(entry.matches(parts.hostname, port) for entry in entries)


def _network(text: str) -> IPv4Network | IPv6Network:
    """Return the network of a text, of one address too. Raises ValueError."""
    place, _, prefix = text.partition("/")
    network = ip_network(place.partition("%")[0] + (f"/{prefix}" if prefix else ""), strict=False)
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


def _port(digits: str | None) -> int | None:
    return None if digits is None else int(digits)
