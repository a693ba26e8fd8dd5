"""Which certificate authorities are trusted for TLS if the configuration names none: those of the system.

In this order, as other programs of a system do it: ``REQUESTS_CA_BUNDLE`` or ``CURL_CA_BUNDLE`` of the
environment (requests reads them itself), ``SSL_CERT_FILE``, ``SSL_CERT_DIR``, the system's file, the system's
folder; and the authorities that requests is shipped with, on a system that has none of these.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

_OF_REQUESTS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_SYSTEM_FILES = (  # for a Python whose OpenSSL was built for other places than this system's
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # OpenSSL's own
)


def authorities() -> str | None:
    """Return the file or folder with the authorities to trust; None to leave it to requests."""
    if any(os.environ.get(name) for name in _OF_REQUESTS):
        return None
    # A path from the environment that does not exist is an error that names it, not a reason to trust others.
    if file := os.environ.get("SSL_CERT_FILE"):
        return file
    if folders := os.environ.get("SSL_CERT_DIR"):
        first, *others = folders.split(os.pathsep)
        return next((folder for folder in (first, *others) if Path(folder).is_dir()), first)
    system = ssl.get_default_verify_paths()
    files = (system.cafile, *_SYSTEM_FILES)
    found = next((path for path in files if path and _is_filled(Path(path))), None)
    return found or (system.capath if system.capath and any(Path(system.capath).glob("*.0")) else None)


def _is_filled(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False
