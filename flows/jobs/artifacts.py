"""Tables and pictures of a Prefect run that people look at."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from prefect.artifacts import create_image_artifact


def show_picture(png: bytes, key: str, description: str) -> None:
    """Make a picture an artifact of the Prefect run, which holds it itself."""
    url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    create_image_artifact(image_url=url, key=key, description=description)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
