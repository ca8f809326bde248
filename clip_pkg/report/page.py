"""The pages: figures, and the templates that write them.

Everything that comes from users (names of classes, files and configs) is escaped by the template.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from clip_pkg.base.errors import shown
from clip_pkg.report.drawing import Drawing, custom_properties


@dataclass(frozen=True)
class PlacedFigure:
    """A drawing in the page. scope: makes its ids unique. folder: of its files, in `figures/`."""

    drawing: Drawing
    scope: str
    folder: str

    @property
    def markup(self) -> Markup:
        """The SVG element; matplotlib and ElementTree have escaped the text in it."""
        return Markup(self.drawing.inline(self.scope))  # noqa: S704

    def link(self, kind: str) -> str:
        """Relative URL of its file."""
        path = "/".join(part for part in (self.folder, self.drawing.caption.slug) if part)
        return quote(f"figures/{path}.{kind}")


def page_html(template: str, **values: Any) -> str:
    """Write an HTML document that loads no other file, from a template and its variables."""
    loader = PackageLoader("clip_pkg.report")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "data_uri": lambda png: f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}",
        "shown": shown,
        "breakable": lambda name: escape(name).replace("_", Markup("_<wbr>")),
        "percent": lambda share: f"{100 * share:.1f}\u00a0%",
    }
    style, script = (loader.get_source(environment, name)[0] for name in ("style.css", "script.js"))
    return environment.get_template(template).render(
        **values,
        style=Markup(style),  # noqa: S704  our own files
        script=Markup(script),  # noqa: S704
        light=Markup(custom_properties("light")),  # noqa: S704
        dark=Markup(custom_properties("dark")),  # noqa: S704
    )
