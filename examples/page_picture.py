"""Writes docs/page.png: the page of `steer ui` in headless Chromium (see `make test-page`).

python examples/page_picture.py [CHROMIUM]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PROMPT = "One day Mara woke up."


def main() -> None:
    """Start the page, have one text written, and take its picture."""
    chromium = next(iter(sys.argv[1:]), "/usr/bin/chromium")
    command = [sys.executable, "-m", "steer", "ui", "--no-browser", "--json", "--port", "0"]
    server = subprocess.Popen(
        [*command, "-v", "joyful"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert server.stdout is not None
    lines = [server.stdout.readline()]
    while lines[-1] not in ("}\n", ""):
        lines.append(server.stdout.readline())
    address = json.loads("".join(lines))["page"]
    try:
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=chromium, args=FLAGS)
            page = browser.new_page(viewport={"width": 1120, "height": 620})
            page.goto(address)
            page.locator("#colour").select_option("joyful")
            page.fill("#message", PROMPT)
            page.press("#message", "Enter")
            page.wait_for_selector("#send:not(:text-is('Stop'))")
            page.locator(".steered .token").nth(12).click()
            page.wait_for_timeout(300)
            page.screenshot(path=ROOT / "docs/page.png")
            browser.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
