"""The saved form of an explorer: one ``text/html`` that works without a kernel and without a network.

A still picture with a line of text, and over it a sandboxed frame that holds the explorer itself. On a
page that drops frames (a notebook that is not trusted yet), the picture and the line remain.
"""

from __future__ import annotations

import base64
import html
import json
import re
import zlib
from collections.abc import Mapping, Sequence

__all__ = ["saved_form", "taken_apart"]

EXPORT = "export default { render };"
WHY_STILL = (
    "A still picture, because this page may not run the explorer. To move it, trust the notebook "
    "(JupyterLab: View, Activate Command Palette, Trust Notebook; or jupyter trust and its file name "
    "in a terminal), or run its cell."
)
SAVED = "const SAVED = "
# The smallest stand-in for the model of a live widget.
_MODEL = """
const state = Object.fromEntries(Object.entries(SAVED).map(([name, value]) => [name, revived(value)]));
const heard = {};

function revived(value) {
  if (Array.isArray(value)) return value.map(revived);
  if (value === null || value.base64 === undefined) return value;
  return new DataView(Uint8Array.from(atob(value.base64), (sign) => sign.charCodeAt(0)).buffer);
}

const model = {
  get: (name) => state[name],
  set: (name, value) => {
    state[name] = value;
    (heard[`change:${name}`] ?? []).forEach((callback) => callback());
  },
  on: (event, callback) => (heard[event] ??= []).push(callback),
  off: () => {},
  save_changes: () => {},
};
render({ model, el: document.body });
document.documentElement.classList.add("alive");
"""
_PAGE_STYLE = "body { margin: 0; } .alive { color-scheme: light dark; background: Canvas; }"
# The frame lies over the picture by its own attributes, so that neither needs the style sheet; that
# one only gives the frame its height at each width, and the theme of the page around it.
_STYLE = """
.kdlib-saved { container-type: inline-size; }
.kdlib-saved > div:has(> iframe) { overflow: hidden; }
[data-jp-theme-light="true"] .kdlib-saved iframe { color-scheme: light; }
[data-jp-theme-light="false"] .kdlib-saved iframe { color-scheme: dark; }
"""


def saved_form(
    *,
    name: str,
    source: str,
    style: str,
    state: Mapping[str, object],
    heights: Sequence[tuple[int, str]],
    picture: bytes,
    alt: str,
) -> str:
    """The explorer as one piece of HTML.

    Args:
        name: the explorer's, such as ``temperature explorer``; the title of the frame.
        source: its JavaScript module, with a function ``render`` and, last, its default export.
        style: its style sheet.
        state: what the module reads from its model; bytes are kept as base64.
        heights: pairs of a page width in pixels, rising from 0, and the frame's CSS height from there.
        picture: PNG, for pages that drop frames.
        alt: what the picture shows.

    Raises:
        ValueError: a source that cannot be put into a page: another last line, or a closing tag in it.
    """
    page = _page(name, source, style, state)
    size, rules = _heights(heights)
    return (
        f"<style>{_STYLE}{rules}</style>"
        f'<div class="kdlib-saved {name.replace(" ", "-")} {size}"><div style="position: relative">'
        f'<img src="data:image/png;base64,{_base64(picture)}" alt="{html.escape(alt)}" '
        'style="max-width: 100%">'
        f"<p>{WHY_STILL}</p>"
        f'<iframe title="{html.escape(name)}" sandbox="allow-scripts" srcdoc="{_attribute(page)}" '
        'style="position: absolute; left: 0; top: 0; width: 100%; height: 100%; border: 0">'
        "</iframe></div></div>"
    )


_FORM = re.compile(
    r'<img src="data:image/png;base64,(?P<picture>[^"]*)" alt="(?P<alt>[^"]*)".*'
    r'<iframe title="(?P<name>[^"]*)" sandbox="allow-scripts" srcdoc="(?P<page>[^"]*)"',
    re.DOTALL,
)


def taken_apart(form: str) -> dict[str, object]:
    """The arguments that `saved_form` was given, without the drawing: name, state, picture, alt.

    Bytes in the state stay as base64, as `saved_form` keeps them.

    Raises:
        ValueError: the form is not a saved form.
    """
    if not (found := _FORM.search(form)):
        raise ValueError(f"form must be what saved_form returns, got {form[:40]!r}")
    _, _, saved = html.unescape(found["page"]).partition(SAVED)
    state, _ = json.JSONDecoder().raw_decode(saved)
    return {
        "name": html.unescape(found["name"]),
        "state": state,
        "picture": base64.b64decode(found["picture"]),
        "alt": html.unescape(found["alt"]),
    }


def _page(name: str, source: str, style: str, state: Mapping[str, object]) -> str:
    module = source.rstrip()
    if not module.endswith(EXPORT):
        raise ValueError(f"source must end with {EXPORT!r}, got {module[-40:]!r}")
    if "</" in module.removesuffix(EXPORT):
        raise ValueError("source must not have '</' in it: it would close the script it stands in")
    saved = json.dumps(state, default=_kept, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(name)}</title>'
        f"<style>{_PAGE_STYLE}{style}</style></head><body>"
        f'<script type="module">{module.removesuffix(EXPORT)}{SAVED}{saved};{_MODEL}</script>'
        "</body></html>"
    )


def _heights(heights: Sequence[tuple[int, str]]) -> tuple[str, str]:
    """A CSS class for these heights alone, because a page may hold others, and its rules."""
    size = f"high-{zlib.crc32(repr([*heights]).encode()):08x}"
    rule = f".kdlib-saved.{size} > div:has(> iframe)"
    return size, "".join(
        f"@container (min-width: {width}px) {{ {rule} {{ height: {height}; }} }}\n"
        for width, height in heights
    )


def _kept(value: object) -> dict[str, str]:
    if not isinstance(value, bytes):
        raise TypeError(f"state must be JSON and bytes, got {type(value).__name__}")
    return {"base64": _base64(value)}


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _attribute(page: str) -> str:
    return page.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
