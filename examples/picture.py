"""The picture of the README: `steer apply --compare` on the pocket model, as an SVG of a terminal.

python examples/picture.py docs/compare.svg
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

PROMPT = "One day Mara woke up."
WORDS = ["apply", PROMPT, "-v", "joyful:3@2", "--compare", "--seed", "3", "--max-tokens", "48"]
SHOWN = f'steer apply "{PROMPT}" -v joyful:3@2 --compare'
WIDTH = 92


def main(out: Path) -> None:
    environment = {**os.environ, "COLUMNS": str(WIDTH)}
    command = [sys.executable, "-m", "steer", *WORDS]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(Text.assemble(("$ ", "bold green"), SHOWN))
    console.print()
    titles, *rest = run.stdout.rstrip().splitlines()
    console.print(Text(titles, style="bold"))
    for line in rest:
        console.print(Text(line))
    console.save_svg(str(out), title="steer")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
