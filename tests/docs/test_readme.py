"""What README.md shows of a release that cannot start is what happens."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.pages import run_page

README = Path(__file__).parents[2] / "README.md"
_BEGINNING = r"""
```console
$ repo-tools new repo
…
$ publish() { for image in boot root hash; do head -c 200000 /dev/urandom > $image; done; \
    repo-tools --repo repo publish --variant demo --arch x86_64 --version $1 \
    --boot boot --root root --hash hash --waves none; }
$ publish 1.0.0 2>/dev/null
…
$ mkdir node && repo-tools --repo repo disk create node/disk.img --version 1.0.0 2>/dev/null
…
$ updog drill new node --metadata-url file://$PWD/repo/metadata/ --targets-url file://$PWD/repo/targets/ \
    --trusted-root repo/metadata/1.root.json --variant demo --version 1.0.0
…
$ step() { publish $1; updog --config node/updog.toml update; } 2>/dev/null
$ step 1.1.0 >/dev/null 2>&1; updog drill boot node && updog --config node/updog.toml confirm
…
$ step 1.2.0 >/dev/null 2>&1
```
"""


def test_a_release_that_cannot_start_leaves_its_reason(tmp_path: Path) -> None:
    shown = [
        block
        for block in re.findall(r"^```console\n.*?^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        if "--fail init" in block
    ]
    assert len(shown) == 1
    page = tmp_path / "page.md"
    page.write_text(f"{_BEGINNING}\n{shown[0].removesuffix('```')}…\n```\n", encoding="utf-8")
    printed = run_page(page, tmp_path)
    assert "1.2.0" in printed[-1]
