"""Make a student's prose safe for the browser of whoever reads it.

What counts is what the notebook's renderer makes of it, not the source, where a link can be hidden
in many ways. Plain prose stays as it is; anything else is shown as its source.
"""

from __future__ import annotations

import base64
import re
from typing import Any

from bs4 import BeautifulSoup, Tag
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

LONGEST = 50_000  # characters
LARGEST_PICTURE = 4_000_000  # characters of base64
PICTURES = ("image/png", "image/jpeg", "image/gif")
TAGS = {
    *(
        "p",
        "br",
        "hr",
        "em",
        "strong",
        "del",
        "sup",
        "sub",
        "code",
        "pre",
        "span",
        "div",
        "a",
        "img",
    ),
    *("blockquote", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td"),
    *("h1", "h2", "h3", "h4", "h5", "h6"),
}
WHOLE_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
ATTRIBUTES = {"href", "src", "alt", "title", "class", "id", "style"}


def safe(source: str, attachments: dict[str, Any]) -> str:
    """Return the source if it renders to text, links and attached pictures only, else a listing."""
    if len(source) > LONGEST:
        source = f"{source[:LONGEST]}\n\n… and {len(source) - LONGEST:,} more characters"
    if _renders_plainly(source, attachments):
        return source
    fence = "`" * (1 + max([2, *map(len, re.findall(r"`+", source))]))
    return f"{fence}text\n{source}\n{fence}"


def _renders_plainly(source: str, attachments: dict[str, Any]) -> bool:
    renderer = IPythonRenderer(escape=False, attachments=attachments)
    try:
        rendered = MarkdownWithMath(renderer=renderer).render(source)
    except Exception:  # noqa: BLE001  the renderer may raise anything, as for a missing picture
        return False
    # A "<" without its ">" may become a tag together with what follows on the page.
    if re.search(r"<(?=[a-zA-Z/!?])", WHOLE_TAG.sub("", rendered)):
        return False
    return all(map(_is_plain, BeautifulSoup(rendered, "html.parser").find_all(True)))


def _is_plain(tag: Tag) -> bool:
    if tag.name not in TAGS or not set(tag.attrs) <= ATTRIBUTES:
        return False
    if "style" in tag.attrs and not re.fullmatch(r"text-align: ?\w+;?", tag["style"]):
        return False
    if "src" in tag.attrs:
        return bool(re.match(r"data:image/(png|jpeg|gif);base64,", tag["src"]))
    return bool(re.match(r"(https?:|mailto:|#)", tag.get("href", "#")))


def pictures(attachments: Any) -> dict[str, dict[str, str]]:
    """Keep those attachments of a cell that are pictures."""
    kept = {}
    for name, bundle in attachments.items() if isinstance(attachments, dict) else ():
        for kind, data in bundle.items() if isinstance(bundle, dict) else ():
            if kind in PICTURES and isinstance(data, str) and _is_base64(data):
                kept[str(name)] = {kind: data}
    return kept


def _is_base64(data: str) -> bool:
    try:
        return len(data) < LARGEST_PICTURE and bool(base64.b64decode(data, validate=True))
    except ValueError:
        return False
