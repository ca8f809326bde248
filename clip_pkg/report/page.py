"""The page: the values that it shows, and the template that writes it.

Everything that comes from users (names of classes, files and configs) is escaped by the template.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from clip_pkg.base.errors import shown
from clip_pkg.report.drawing import Drawing, custom_properties
from clip_pkg.report.pictures import Pictures
from clip_pkg.report.results import ConfigOutcome
from clip_pkg.results.tables import Table


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


@dataclass(frozen=True)
class ConfigSection:
    """One config on the page.

    headline: the compared score. exposure: None if the figure of an earlier config is the same;
    exposure_of: configs that it shows, empty for all. pictures: None if they were not made;
    pictures_missing: the reason.
    """

    scope: str
    outcome: ConfigOutcome
    headline: str
    findings: Sequence[str]
    learning: Sequence[PlacedFigure]
    confusion: Sequence[PlacedFigure]
    thresholds: Sequence[PlacedFigure]
    per_class: PlacedFigure
    class_table: Table
    exposure: PlacedFigure | None
    exposure_of: str
    provenance: Table
    config_json: str
    pictures: Pictures | None
    pictures_missing: str
    embedding: PlacedFigure | None

    @property
    def figures(self) -> Sequence[PlacedFigure]:
        optional = [one for one in (self.exposure, self.embedding) if one is not None]
        return (*self.learning, *self.confusion, *self.thresholds, self.per_class, *optional)


@dataclass(frozen=True)
class DataSetSection:
    """One data set on the page: leaderboard, tests, facts and texts.

    facts: about images and folds. links: name in the leaderboard → scope of the config.
    pretraining, convergence: None without pre-trainings.
    """

    scope: str
    name: str
    facts: Sequence[tuple[str, str]]
    leaderboard: Table
    links: Mapping[str, str]
    scores: PlacedFigure
    distribution: PlacedFigure
    pairs: Table | None
    pairs_note: str
    refusals: Sequence[str]
    methods: str
    latex: str
    pretraining: Table | None
    convergence: PlacedFigure | None

    @property
    def figures(self) -> Sequence[PlacedFigure]:
        further = () if self.convergence is None else (self.convergence,)
        return (self.scores, self.distribution, *further)


def page_html(**values: Any) -> str:
    """Write the page, one HTML document that loads no other file, from the template's variables."""
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
    return environment.get_template("page.html.j2").render(
        **values,
        style=Markup(style),  # noqa: S704  our own files
        script=Markup(script),  # noqa: S704
        light=Markup(custom_properties("light")),  # noqa: S704
        dark=Markup(custom_properties("dark")),  # noqa: S704
    )
