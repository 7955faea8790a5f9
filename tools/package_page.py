"""Write README.md's links in full, because a package's page on an index shows it without the repository.

``python tools/package_page.py`` changes README.md where it stands; the release workflow runs it before it
builds the package. The address comes from the variables that the hosting side sets.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from publish import host

README = Path(__file__).resolve().parent.parent / "README.md"
LINK = r'(\]\(|src=")(?!https?://)([^)"\s]+)'


def complete(text: str, address: str, ref: str) -> str:
    """Put the address of the repository, at a tag or branch, before every relative link."""

    def full(link: re.Match[str]) -> str:
        start, target = link.groups()
        if target.startswith("#"):
            return f"{start}{address}{target}"
        kind = "raw" if start.startswith("src") else "blob"
        return f"{start}{address}/{kind}/{ref}/{target}"

    return re.sub(LINK, full, text)


def main() -> None:
    where = host(os.environ)
    if where is None:
        raise SystemExit("GITHUB_SERVER_URL, GITHUB_REPOSITORY and GITHUB_REF_NAME must be set")
    text = README.read_text(encoding="utf-8")
    README.write_text(complete(text, where.address, where.ref), encoding="utf-8")


if __name__ == "__main__":
    main()
