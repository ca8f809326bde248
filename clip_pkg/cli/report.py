"""`report`: a run as a page, figures and words, from the files that training left."""

from __future__ import annotations

import argparse

from clip_pkg.base.errors import shown
from clip_pkg.cli.models import looking, use_device
from clip_pkg.launch.terminal import Terminal
from clip_pkg.report.build import build
from clip_pkg.report.pictures import Advance, Pictures, find_images, make_pictures
from clip_pkg.report.results import ConfigOutcome, read_run


def report(parsed: argparse.Namespace) -> int:
    """Write the report of a folder; says where it is and what is missing in it."""
    terminal = Terminal()

    def pictures(outcome: ConfigOutcome, advance: Advance) -> Pictures:
        held_out = find_images(outcome, parsed.data_dir)
        return make_pictures(outcome, held_out, use_device(None), advance)

    with terminal.waiting("Reading and comparing results"):
        run = read_run(parsed.directory)
    with looking(terminal, "Making the report") as progress:
        done = build(run, None if parsed.no_images else pictures, progress)
    for sentence in done.missing:
        if not parsed.no_images:
            terminal.line(f"NOTE: {sentence}", "yellow")
    terminal.line(f"Wrote {shown(done.paths.page)}, which needs no other file.", "green")
    terminal.line(
        f"  {done.n_figures} figures as SVG and PDF in {shown(done.paths.figures)}, "
        f"{done.paths.methods.name}, {done.paths.latex.name}, and numbers as CSV beside it"
    )
    terminal.line("Next: open the page in a browser; its Methods part has texts to paste.")
    return 0
