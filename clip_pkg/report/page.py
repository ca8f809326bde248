"""The page: what it shows as plain values, and the template that writes it.

Everything that comes from users (names of classes, files and configs) is escaped by the template.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from clip_pkg.base.errors import shown
from clip_pkg.report.drawing import Drawing, custom_properties
from clip_pkg.report.pictures import MistakePicture
from clip_pkg.report.tables import Table


@dataclass(frozen=True)
class PlacedFigure:
    """A drawing in the page. scope: keeps its ids its own. folder: of its files, in `figures/`."""

    drawing: Drawing
    scope: str
    folder: str

    @property
    def markup(self) -> Markup:
        """The SVG element."""
        # matplotlib and ElementTree have escaped what is text in it.
        return Markup(self.drawing.inline(self.scope))  # noqa: S704

    def link(self, kind: str) -> str:
        """Where its file is, as a relative URL."""
        path = "/".join(part for part in (self.folder, self.drawing.caption.slug) if part)
        return quote(f"figures/{path}.{kind}")


@dataclass(frozen=True)
class ConfigSection:
    """One config's part of the page.

    headline: its score beside its name. exposure: None where an earlier config's is the same;
    exposure_of: the configs that it is of, empty for all. pictures_missing: why there is neither a
    map nor mistakes; empty if they were looked for.
    """

    scope: str
    name: str
    headline: str
    findings: Sequence[str]
    learning: Sequence[PlacedFigure]
    confusion: Sequence[PlacedFigure]
    thresholds: Sequence[PlacedFigure]
    per_class: PlacedFigure
    class_table: Table
    classes: Sequence[str]
    exposure: PlacedFigure | None
    exposure_of: str
    provenance: Table
    config_json: str
    no_mistakes: bool
    pictures_missing: str = ""
    embedding: PlacedFigure | None = None
    mistakes: Sequence[MistakePicture] = ()
    picture_notices: Sequence[str] = ()

    @property
    def figures(self) -> Sequence[PlacedFigure]:
        """All of its figures."""
        optional = (self.exposure, self.embedding)
        there = [one for one in optional if one is not None]
        return (*self.learning, *self.confusion, *self.thresholds, self.per_class, *there)


@dataclass(frozen=True)
class DataSetSection:
    """A leaderboard of the configs on one set of images, and what is written about them.

    facts: about the images and folds. links: name in the leaderboard → scope of the config.
    pretraining, convergence: the losses of pre-trainings, where there are any.
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
    pretraining: Table | None = None
    convergence: PlacedFigure | None = None

    @property
    def figures(self) -> Sequence[PlacedFigure]:
        """All of its figures."""
        further = () if self.convergence is None else (self.convergence,)
        return (self.scores, self.distribution, *further)


@dataclass(frozen=True)
class Page:
    """Everything that the template reads."""

    title: str
    subtitle: str
    version: str
    lede: str
    findings: Sequence[str]
    notices: Sequence[str]
    data_sets: Sequence[DataSetSection]
    configs: Sequence[ConfigSection]
    files: Sequence[tuple[str, str]]


def render(page: Page) -> str:
    """Write the page as one HTML document that asks for no other file."""
    environment = Environment(
        loader=PackageLoader("clip_pkg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["shown"] = shown
    environment.filters["breakable"] = _breakable
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}\u00a0%"
    loader = environment.loader
    assert loader is not None
    style, script = (loader.get_source(environment, name)[0] for name in ("style.css", "script.js"))
    return environment.get_template("page.html.j2").render(
        page=page,
        style=Markup(style),  # noqa: S704  ours
        script=Markup(script),  # noqa: S704
        light=Markup(custom_properties("light")),  # noqa: S704
        dark=Markup(custom_properties("dark")),  # noqa: S704
    )


def _breakable(name: str) -> Markup:
    """A name that may be broken where its parts end."""
    return escape(name).replace("_", Markup("_<wbr>"))


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
