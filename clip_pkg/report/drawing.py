"""From a matplotlib figure to SVG inside the page, and to SVG and PDF files beside it.

A figure is drawn once, in light colours. In the page each colour becomes a variable of the style
sheet, which has dark values too; text stays text, in the font of the page.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Role:
    """A colour's name in the page's style sheet, and its values (lower-case hex)."""

    name: str
    light: str
    dark: str


PAPER = Role("paper", "#ffffff", "#16181d")
INK = Role("ink", "#1b1e24", "#e9eaee")
MUTED = Role("muted", "#5b6270", "#a6adba")
RULE = Role("rule", "#d9dce2", "#343945")
FIRST = Role("first", "#0069a8", "#5bb4ea")
SECOND = Role("second", "#bb4a02", "#f0975a")
THIRD = Role("third", "#00795b", "#35c69b")
HEAT = Role("heat", "#63a5d9", "#2d6da6")
BAR = Role("bar", "#9cc3e2", "#35618a")
WRONG = Role("wrong", "#c22f2f", "#ff8a85")

# of classes in a map; with 7 markers there are 56 combinations
CLASS_ROLES = (
    FIRST,
    SECOND,
    THIRD,
    Role("class-4", "#97477f", "#e59acb"),
    Role("class-5", "#8a6d00", "#e6c84a"),
    Role("class-6", "#3d4657", "#c3c9d4"),
    Role("class-7", "#6a4fb3", "#b9a3f5"),
    Role("class-8", "#2a7fae", "#9ed4f5"),  # the nearest to another, the first
)
ROLES: Mapping[str, Role] = {
    role.name: role for role in (PAPER, INK, MUTED, RULE, HEAT, BAR, WRONG, *CLASS_ROLES)
}


def custom_properties(theme: str) -> str:
    """CSS variables of a theme, `light` or `dark`."""
    return " ".join(f"--{role.name}: {getattr(role, theme)};" for role in ROLES.values())


SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
FONTS = "system-ui, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"
PNG_DPI = 216
PIXELS_PER_INCH = 72  # a point of the figure is a pixel of the page

STYLE: Any = {  # rcParams; matplotlib names their keys one by one
    "svg.fonttype": "none",
    "svg.hashsalt": "report",  # equal figures have equal bytes
    "pdf.fonttype": 42,  # letters stay letters
    "text.parse_math": False,  # $ in a class name is a $
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "text.color": INK.light,
    "axes.labelcolor": MUTED.light,
    "axes.titlecolor": INK.light,
    "axes.edgecolor": RULE.light,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE.light,
    "grid.linewidth": 0.6,
    "xtick.color": RULE.light,
    "ytick.color": RULE.light,
    "xtick.labelcolor": MUTED.light,
    "ytick.labelcolor": MUTED.light,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Caption:
    """Texts of a figure.

    slug: file name without suffix. title: above the figure. description: for screen readers.
    note: how to read it, below the figure. scrolls: whether it is too detailed to be shrunk to the
    width of a phone.
    """

    slug: str
    title: str
    description: str
    note: str = ""
    scrolls: bool = False


@dataclass(frozen=True)
class Drawing:
    """A finished figure. width, height: in pixels. svg, pdf: contents of the files."""

    caption: Caption
    width: int
    height: int
    svg: bytes
    pdf: bytes

    def inline(self, scope: str) -> str:
        """SVG element for the page, with CSS variables as colours and the page's font.

        scope: letters, digits and -; makes the ids unique.
        """
        root, scope = _parsed(self.svg), f"{scope}-{self.caption.slug}"
        names = {role.light: f"var(--{name})" for name, role in ROLES.items()}
        for name in ("width", "height", "version"):
            root.attrib.pop(name, None)
        for element in root.iter():
            style = _declarations(element)
            style.pop("font-family", None)
            for key, value in style.items():
                style[key] = names.get(value, value).replace("url(#", f"url(#{scope}-")
            if style:
                _set(element, style)
            for key, value in list(element.attrib.items()):
                if key == "id":
                    element.set(key, f"{scope}-{value}")
                elif key == "aria-labelledby":
                    element.set(key, " ".join(f"{scope}-{one}" for one in value.split()))
                elif key == f"{{{XLINK}}}href":
                    del element.attrib[key]
                    element.set("href", f"#{scope}-{value.removeprefix('#')}")
                elif value.startswith("url(#"):
                    element.set(key, f"url(#{scope}-{value.removeprefix('url(#')}")
            element.tag = element.tag.removeprefix(f"{{{SVG}}}")
        return ET.tostring(root, encoding="unicode")


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """Open an empty figure in the report's style; width and height in pixels."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # letters that the measuring font lacks, such as emoji, are shown in the reader's font
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        size = (width / PIXELS_PER_INCH, height / PIXELS_PER_INCH)
        yield Figure(figsize=size, dpi=PIXELS_PER_INCH, layout="constrained")


def draw(width: float, height: float, caption: Caption, fill: Callable[[Figure], None]) -> Drawing:
    """Let `fill` draw, and write the result as SVG and PDF."""
    with figure(width, height) as canvas:
        fill(canvas)
        svg, pdf = io.BytesIO(), io.BytesIO()
        canvas.savefig(svg, format="svg", metadata={"Date": None})
        canvas.set_layout_engine("none")  # keep the positions
        canvas.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    root = _parsed(svg.getvalue())
    for element in root.findall(f"{{{SVG}}}metadata"):
        root.remove(element)
    # title and description for screen readers
    root.set("role", "img")
    root.set("aria-labelledby", "title desc")
    for position, (tag, text) in enumerate(
        (("title", caption.title), ("desc", caption.description))
    ):
        element = ET.Element(f"{{{SVG}}}{tag}", {"id": tag})
        element.text, element.tail = text, "\n"
        root.insert(position, element)
    for element in root.iter():
        _use_fonts(element)
    file = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return Drawing(caption, round(width), round(height), file, pdf.getvalue())


def draw_png(width: float, height: float, fill: Callable[[Figure], None]) -> bytes:
    """The same as PNG on white, for programs that cannot show SVG."""
    with figure(width, height) as canvas:
        fill(canvas)
        png = io.BytesIO()
        canvas.savefig(png, format="png", dpi=PNG_DPI, facecolor=PAPER.light)
    return png.getvalue()


def legend_below(canvas: Figure, axes: Axes) -> None:
    """Legend below the figure with each label of `axes` once."""
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    canvas.legend(
        list(unique.values()),
        list(unique),
        loc="outside lower center",
        ncols=3,
        handlelength=1.4,
        columnspacing=1.4,
    )


def _parsed(svg: bytes) -> ET.Element:
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    return ET.fromstring(svg)  # noqa: S314  matplotlib wrote it


def _declarations(element: ET.Element) -> dict[str, str]:
    pairs = (part.partition(":") for part in element.get("style", "").split(";") if part.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _set(element: ET.Element, declarations: dict[str, str]) -> None:
    element.set("style", "; ".join(f"{name}: {value}" for name, value in declarations.items()))


def _use_fonts(element: ET.Element) -> None:
    """Replace the font that matplotlib measured with by a list of fonts."""
    style = _declarations(element)
    if element.tag != f"{{{SVG}}}text" or not style.keys() & {"font", "font-size"}:
        return
    shorthand = style.pop("font", "")
    style.pop("font-family", None)
    if shorthand:  # `bold 10px 'DejaVu Sans', …`
        before, _, _ = shorthand.partition("px")
        *weight, size = before.split()
        style["font-size"] = f"{size}px"
        if weight:
            style["font-weight"] = weight[0]
    style["font-family"] = FONTS
    _set(element, style)
