"""Pages that need nothing but themselves: no network, no file beside them."""

from __future__ import annotations

import base64
import hashlib
import html
import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from counterpoint.errors import UsageError
from counterpoint.report.visible import label, pieces, visible


def render(template: str, script: str | None, **values: Any) -> str:
    """A page from one of this room's templates.

    Args:
        template: its name without `.html.j2`.
        script: the name without `.js` of the script that it runs; the page's policy lets no other script run.
        values: what the template shows; all of it is escaped.
    """
    code = "" if script is None else _source(f"{script}.js")
    # The policy names the script by its hash, so a script that slipped in through a text would not run either.
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return (
        _environment()
        .get_template(f"{template}.html.j2")
        .render(style=_source("page.css"), script=code, digest=digest, **values)
    )


def framed(page: str, height: int) -> str:
    """A page as a frame inside of a notebook, kept apart from it. `height` in CSS pixels."""
    return (
        f'<iframe srcdoc="{html.escape(page)}" sandbox="allow-scripts" loading="lazy" '
        f'style="width:100%;height:{height}px;border:0"></iframe>'
    )


def save(page: str, path: str | os.PathLike[str]) -> None:
    """Write a page, in UTF-8.

    Raises:
        UsageError: the file can't be written.
    """
    try:
        Path(path).write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"the page can't be written to {str(path)!r}: {error.strerror}") from None


def _source(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    environment.filters |= {"visible": visible, "label": label, "pieces": pieces, "number": number, "prob": prob}
    return environment


def number(value: float | None, digits: int = 2) -> str:
    """A number of a table; a dash where there is none."""
    if value is None:
        return "–"
    return "−∞" if value == float("-inf") else f"{value:z.{digits}f}".replace("-", "−")


def prob(value: float) -> str:
    """A probability with two figures, however small."""
    return f"{value:.2f}" if value >= 0.095 else f"{value:.2g}" if value else "0"
