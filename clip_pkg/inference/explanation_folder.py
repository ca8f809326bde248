"""A folder of explanations: a picture per image, and an index of them to look at and to read.

No torch here: a place that cannot be written to is told before a model is loaded.

Legend: h, w height and width of an image, S side of the square that maps lie over, in pixels.
"""

from __future__ import annotations

import csv
import io
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import jinja2
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_pkg.base.errors import UserError, shown
from clip_pkg.base.files import write_bytes, write_text

LONGEST_SIDE = 512  # of a picture, pixels
COLOURS = "turbo"
OPACITY = 0.6  # of the strongest evidence; where there is none the image is as it was
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
Colours compare places within an image, not images with each other.</p>
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

    path: of the image, as it was named. picture: file in the folder. explained: the class whose
    evidence is shown. probability: the model's for it. prediction: the class that it predicts.
    """

    path: str
    picture: str
    explained: str
    probability: float
    prediction: str


def check_folder(path: Path) -> None:
    """Refuse a folder that holds something, and what is none. Raises UserError."""
    try:
        if path.is_dir() and not any(path.iterdir()):
            return
        if path.exists() or path.is_symlink():
            what = "is not empty" if path.is_dir() else "is no folder"
            raise UserError(f"{shown(path)} {what}: name a new folder")
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read: {error.strerror}") from None


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `path` when all went well; else nothing is left.

    Raises UserError if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def picture_name(number: int) -> str:
    """File of image `number`, which counts from 1."""
    return f"{number:05d}.png"


def write_picture(path: Path, image: NDArray[np.uint8], evidence: NDArray[np.float32]) -> None:
    """Lay evidence [S, S] in [0, 1], of the squashed image, over the image [h, w, 3], RGB."""
    height, width = image.shape[:2]
    shrink = min(1.0, LONGEST_SIDE / max(height, width))
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
    """Write `index.csv` and `index.html`."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([field.name for field in fields(Explained)])
    writer.writerows(astuple(row) for row in rows)
    write_text(folder / INDEX, stream.getvalue())
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    write_text(folder / PAGE, page.from_string(_PAGE).render(title=title, rows=rows))
