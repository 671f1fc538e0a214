"""Makes docs/space.webp, the README's picture of the Space: a finished merge, from Merge to the first two figures."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from space_check import ROOT, serve, tour

WIDTH, HEIGHT = 1280, 950


def main() -> None:
    """Serve the page, merge, and keep what a visitor then sees."""
    with tempfile.TemporaryDirectory(prefix="space-picture-") as folder:
        place = Path(folder)
        (place / "space").symlink_to(ROOT / "spaces_app")
        process, url, _ = serve(Path(sys.executable), place)
        try:
            with tour.browser() as browser, tour.visitor(browser, url) as page:
                tour.merge(page)
                page.mouse.move(0, 0)
                page.evaluate("window.scrollTo(0, 0)")  # boxes are measured from what is in view
                page.wait_for_timeout(1000)
                frame = page.locator(".part").filter(has=page.locator("#merge")).bounding_box()
                left = frame["x"] + (frame["width"] - WIDTH) / 2
                clip = {"x": left, "y": frame["y"], "width": WIDTH, "height": HEIGHT}
                picture = page.screenshot(full_page=True, clip=clip)
        finally:
            process.terminate()
            process.wait(30)
    Image.open(io.BytesIO(picture)).convert("RGB").save(ROOT / "docs" / "space.webp", quality=85, method=6)


if __name__ == "__main__":
    main()
