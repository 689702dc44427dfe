"""Take the picture of a report: python -m docs.screenshot DIRECTORY

DIRECTORY is a clone of the project in which the README's trunk lies; docs/refresh.py ends with this. It needs
the development packages and Chromium.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent / "report.png"
GROUP = "does-the-fix-help"
SIBLINGS = (
    "-m", "branch.from_step=15000", "branch.steps=600", "loss=fixed,none", "fanout.control=true",
    "fanout.repeats=3", "training.log_every=10", "training.validate_every=50", "tracker=none",
    f"tracking.group={GROUP}", "branch.notes='Does the fixed spectrum loss help?'",
)  # fmt: skip
NARROW, SCALE, MARGIN = 1080, 1.5, 24


def screenshot(directory: Path) -> None:
    """Run three arms in three streams, report them, and keep the page down to its curves."""
    for command in (["train.py", *SIBLINGS], ["-m", "launcher.cli", "report", GROUP]):
        subprocess.run([sys.executable, *command], cwd=directory, check=True)
    page = directory / "multirun_outputs" / GROUP / "report.html"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
        )
        window = browser.new_page(viewport={"width": NARROW, "height": 900}, device_scale_factor=SCALE)
        window.goto(page.resolve().as_uri())
        window.wait_for_selector("html[data-drawn]")
        box = window.locator("#curves").bounding_box()
        assert box is not None
        clip = {"x": 0.0, "y": 0.0, "width": float(NARROW), "height": box["y"] + box["height"] + MARGIN}
        window.screenshot(path=PICTURE, full_page=True, clip=clip)  # type: ignore[arg-type]
        browser.close()


if __name__ == "__main__":
    screenshot(Path(sys.argv[1]).resolve())
