"""A self-contained HTML page: no scripts, and nothing from another host."""

from __future__ import annotations

import html

from steer.base.files import shown


def html_page(title: str, style: str, body: str) -> str:
    """A whole page. title: plain text, escaped here. style: CSS. body: HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(shown(title))}</title><style>{style}</style></head><body>\n"
        f"{body}\n</body></html>\n"
    )
