"""A page as one file that works offline: what all pages share, and how they come onto the disk."""

from __future__ import annotations

import html
import os
from importlib import resources
from pathlib import Path

# A page states that it loads nothing, and the browser holds it to that.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def read(name: str) -> str:
    """A file that lies beside this one, such as page.css."""
    return resources.files("rotational.report").joinpath(name).read_text(encoding="utf-8")


def document(title: str, body: str, style: str = "") -> str:
    """A whole page: `body` as it is, `style` after page.css.

    >>> document("Norms & angles", "<p>Nothing yet.</p>").splitlines()[0]
    '<!DOCTYPE html>'
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
{read("page.css")}{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def place(call: str, path: str | Path, example: str) -> Path:
    """The path of a page to be, before the work begins; `call` is what errors name.

    Raises OSError with a sentence for a folder, for a file in a folder that is not there, and for a path that no file
    can have.
    """
    path = Path(path)
    try:
        folder, there = path.is_dir(), path.parent.is_dir()
    except OSError as error:
        raise OSError(f"{call}: no file can be written there, as the system says: {error.strerror}.") from None
    if folder:
        raise IsADirectoryError(f"{call}: this is a folder. Give a file in it, such as {example}.")
    if not there:
        raise FileNotFoundError(f"{call}: the folder {path.parent} does not exist. Create it first.")
    return path


def put(call: str, path: Path, text: str) -> Path:
    """Write a page, whole or not at all; raises OSError with a sentence."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except OSError as error:
        raise OSError(f"{call}: the file cannot be written, as the system says: {error.strerror}.") from None
    finally:
        if os.path.lexists(draft):
            draft.unlink()
    return path
