"""Text as LaTeX sets it."""

from __future__ import annotations

ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "χ": r"$\chi$",
    "²": r"\textsuperscript{2}",
}


def escape(text: str) -> str:
    """Text that LaTeX sets as it is written; quotes need the font encoding T1."""
    return "".join(ESCAPES.get(char, char) for char in text)
