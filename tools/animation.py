"""Write the animation at the top of the README: lesson 02's temperature explorer in use.

``python tools/animation.py``, or ``make animation``; needs Chromium. It is not filmed in real time: the
mouse moves a step, the page is painted, a picture is taken. So a busy machine makes the same file.
The file's comment is a hash of the explorer that it shows.
"""

from __future__ import annotations

import hashlib
import io
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from explorers import redrawn, saved_forms
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# These make the browser paint the explorer's whole frame together with the page.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-features=IsolateSandboxedIframes",
    "--disable-partial-raster",
]
WIDTH = 800  # CSS pixels, about as many as in the README
SCALE = 1.5  # image pixels per CSS pixel
MILLISECONDS = 80  # a step
APART = 4  # thumbnails from the first image to the other one
# Without the gradient and the caption, the text stays large enough to be read in the README.
LAYOUT = """
.kdlib-temperature .panels { grid-template-columns: 144px 2.1fr 1fr; }
.kdlib-temperature :is(.targets, .entropy) { grid-column: auto; }
.kdlib-temperature :is(.gradient, .caption) { display: none; }
"""
# Screenshots do not show the pointer. Its ring shows that the button is pressed.
POINTER = """
<svg id="pointer" width="1" height="1"
  style="position: fixed; left: 0; top: 0; overflow: visible; pointer-events: none">
  <circle r="15" fill="#262626" fill-opacity="0.2" />
  <path d="M0 0V24L5.5 18.8 9.3 27.4 13.3 25.7 9.6 17.2H17Z" fill="#262626" stroke="white" stroke-width="1.8" />
</svg>
"""
POINT = """([x, y, pressed]) => {
  pointer.style.transform = `translate(${x}px, ${y}px)`;
  pointer.firstElementChild.style.visibility = pressed ? "visible" : "hidden";
}"""
PAINTED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"

Place = tuple[float, float]


def hash_of(form: str) -> str:
    """Hash everything that is filmed: the explorer with its data, and what the film adds."""
    return hashlib.sha256((form + LAYOUT + POINTER).encode()).hexdigest()


def explorer_of(root: Path) -> str:
    """Lesson 02's first temperature explorer, drawn with the current code.

    Raises:
        SystemExit: the lesson holds no temperature explorer.
    """
    lesson = root / "notebooks" / "02_temperature.ipynb"
    forms = saved_forms(nbformat.read(lesson, as_version=4), "temperature explorer")
    if not forms:
        raise SystemExit(
            f"{lesson.name} must hold a saved temperature explorer; make lesson NB={lesson.stem}"
        )
    return redrawn(forms[0])


def made_from(path: Path) -> str | None:
    """The hash of the explorer that an animation shows; None if there is no animation."""
    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.info.get("comment", b"").decode()


@dataclass
class Hand:
    """A hand on the mouse; its moves are recorded as frames, each with its duration."""

    page: object
    explorer: object  # its frame in the page
    place: Place
    pressed: bool = False
    frames: list[tuple[Image.Image, int]] = field(default_factory=list)

    def rest(self, milliseconds: int = MILLISECONDS) -> None:
        self.page.evaluate(POINT, [*self.place, self.pressed])
        self.explorer.evaluate(PAINTED)
        picture = self.page.screenshot()
        self.frames.append((Image.open(io.BytesIO(picture)).convert("RGB"), milliseconds))

    def go(self, goal: Place, steps: int) -> None:
        """Move to the goal, slowly at both ends."""
        start = self.place
        for step in range(1, steps + 1):
            share = (1 - math.cos(math.pi * step / steps)) / 2
            self.place = tuple(a + share * (b - a) for a, b in zip(start, goal, strict=True))
            self.page.mouse.move(*self.place)
            self.rest()

    def press(self) -> None:
        self.page.mouse.down()
        self.pressed = True
        self.rest(240)

    def release(self, milliseconds: int) -> None:
        self.page.mouse.up()
        self.pressed = False
        self.rest(milliseconds)


def film(browser, form: str) -> list[tuple[Image.Image, int]]:
    """Film the way from T = 1 to 20, to another image, back to T = 1 and to the first image."""
    page = browser.new_page(
        viewport={"width": WIDTH, "height": 1000}, device_scale_factor=SCALE, color_scheme="light"
    )
    page.set_content(f'<!DOCTYPE html><body style="margin: 0">{form}{POINTER}')
    explorer = page.locator("iframe").element_handle().content_frame()
    explorer.locator(".kdlib").wait_for()
    explorer.add_style_tag(content=LAYOUT)
    explorer.evaluate(PAINTED)
    first, other = map(middle, two_images(explorer))
    cold, hot = (handle(explorer.get_by_role("slider"), temperature) for temperature in (1, 20))
    page.mouse.click(*cold)
    strip = explorer.locator(".strip").bounding_box()
    page.set_viewport_size({"width": WIDTH, "height": math.ceil(strip["y"] + strip["height"])})

    hand = Hand(page, explorer, cold)
    hand.rest(700)
    hand.press()
    hand.go(hot, 24)
    hand.release(900)
    hand.go(other, 8)
    hand.press()
    hand.release(600)
    hand.go(hot, 8)
    hand.press()
    hand.go(cold, 20)
    hand.release(1000)
    hand.go(first, 8)
    hand.press()
    hand.release(500)
    hand.go(cold, 8)
    page.close()
    return hand.frames


def two_images(explorer) -> tuple:
    """The selected thumbnail and another one, from a more confusing image if there is one."""
    thumbnails = explorer.locator(".thumbnail")
    place = thumbnails.evaluate_all("all => all.findIndex(one => one.ariaSelected === 'true')")
    return thumbnails.nth(place), thumbnails.nth(place - APART if place >= APART else place + APART)


def middle(node) -> Place:
    box = node.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def handle(slider, temperature: float) -> Place:
    """The place of the slider's handle, 24 pixels wide, at a temperature."""
    low, high = (float(slider.get_attribute(end)) for end in ("min", "max"))
    share = (math.log(temperature) - low) / (high - low)
    box = slider.bounding_box()
    return box["x"] + 12 + share * (box["width"] - 24), box["y"] + box["height"] / 2


def gif(frames: list[tuple[Image.Image, int]], comment: str) -> bytes:
    """A looping GIF in 16 levels of red, green and blue: white stays white, and text stays sharp."""
    levels = [17 * round(value / 17) for value in range(256)] * 3
    pictures = [picture.point(levels) for picture, _ in frames]
    counts = Counter()
    for picture in pictures:
        counts.update({colour: count for count, colour in picture.getcolors(16**3)})
    palette = Image.new("P", (1, 1))
    palette.putpalette([level for colour, _ in counts.most_common(256) for level in colour])
    first, *rest = (picture.quantize(palette=palette, dither=0) for picture in pictures)
    file = io.BytesIO()
    durations = [milliseconds for _, milliseconds in frames]
    first.save(
        file, "GIF", save_all=True, append_images=rest, duration=durations, loop=0, comment=comment
    )
    return file.getvalue()


@contextmanager
def chromium() -> Iterator:
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        raise SystemExit("make animation needs playwright; pip install playwright") from None
    path = installed()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def installed() -> str:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise SystemExit(f"make animation needs Chromium, found none of {', '.join(BROWSERS)}")
    return path


def main(root: Path = ROOT) -> None:
    form = explorer_of(root)
    with chromium() as browser:
        frames = film(browser, form)
    target = root / "docs" / "explorer.gif"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(gif(frames, hash_of(form)))
    print(
        f"wrote {target.relative_to(root)}: {len(frames)} frames, {target.stat().st_size // 1000} kB"
    )


if __name__ == "__main__":
    main()
