"""A folder of explanations: a picture per image, `index.html` to browse, `index.csv`. No torch.

Legend: h, w height and width of an image, S width of the square under the maps, in pixels.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import jinja2
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_pkg.base.files import write_bytes, write_text
from clip_pkg.base.spreadsheet import escape_cell

MAX_SIZE = 512  # of a picture, pixels
COLOURS = "turbo"
OPACITY = 0.6  # of the strongest evidence; 0 without evidence
INDEX, PAGE = "index.csv", "index.html"

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{{ title }}</title>
<style>
  body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; }
  main { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 1em; }
  figure { margin: 0; overflow-wrap: anywhere; }
  img { width: 100%; }
</style>
<h1>{{ title }}</h1>
<p>Red is the strongest evidence for the class in an image, blue weak evidence, no colour none.
Colours compare regions within an image, not images with each other.</p>
<main>
{% for row in rows %}
<figure>
  <a href="{{ row.picture }}"><img src="{{ row.picture }}" alt="{{ row.path }}" loading="lazy"></a>
  <figcaption><b>{{ row.explained }}</b> {{ "%.4f" | format(row.probability) }}
  {% if row.prediction != row.explained %}(predicted: {{ row.prediction }}){% endif %}
  <br>{{ row.path }}</figcaption>
</figure>
{% endfor %}
</main>
"""


@dataclass(frozen=True)
class Explained:
    """A row of the index.

    path: of the image, as given. picture: file in the folder. explained: the explained class.
    probability: predicted for it. prediction: the predicted class.
    """

    path: str
    picture: str
    explained: str
    probability: float
    prediction: str


def picture_name(number: int) -> str:
    """File name of image `number`, from 1."""
    return f"{number:05d}.png"


def write_picture(path: Path, image: NDArray[np.uint8], evidence: NDArray[np.float32]) -> None:
    """Blend evidence [S, S] in [0, 1], of the squashed image, over the image [h, w, 3] RGB."""
    height, width = image.shape[:2]
    shrink = min(1.0, MAX_SIZE / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    below = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)) / 255
    stretched = Image.fromarray(evidence).resize(size, Image.Resampling.BILINEAR)
    values = np.clip(np.asarray(stretched), 0, 1)
    opacity = (OPACITY * values)[..., None]
    blended = (1 - opacity) * below + opacity * mpl.colormaps[COLOURS](values)[..., :3]
    stream = io.BytesIO()
    Image.fromarray(np.round(255 * blended).astype(np.uint8)).save(stream, "PNG")
    write_bytes(path, stream.getvalue(), durable=False)


def write_index(folder: Path, title: str, rows: Sequence[Explained]) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([field.name for field in fields(Explained)])
    writer.writerows([*map(escape_cell, astuple(row))] for row in rows)
    write_text(folder / INDEX, stream.getvalue())
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    write_text(folder / PAGE, page.from_string(_PAGE).render(title=title, rows=rows))
