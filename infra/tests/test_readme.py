"""What the README must explain early."""

from __future__ import annotations

import re

from conftest import INFRA

README = (INFRA.parent / "README.md").read_text()


def test_the_first_third_says_who_trusts_whom():
    start = README.index("\n## Who trusts whom\n")
    section = README[start + 1 :].partition("\n## ")[0]
    assert README.count("\n", 0, start + len(section)) < README.count("\n") / 3
    held = re.findall(r"(?m)^\| `([A-Z_]+)` \|", section)
    settings = (INFRA.parent / "crates/backend/src/config.rs").read_text()
    assert held == ["BRIDGE_SECRET", "JWT_SECRET", "ADMIN_TOKEN"]
    assert all(f'env = "{name}"' in settings for name in held)
    assert (INFRA / "README.md").read_text().count("\n## A firewall in front\n") == 1, "the README links to it"
