"""Entry point: picks the command and runs it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from clip_pkg.base.errors import UserError
from clip_pkg.cli.arguments import training_parser
from clip_pkg.cli.command_arguments import (
    class_texts_parser,
    compare_parser,
    plan_parser,
    prefetch_parser,
    refit_parser,
    report_parser,
    schema_parser,
    status_parser,
    summarize_parser,
    validate_parser,
)
from clip_pkg.cli.configs import read_configs
from clip_pkg.cli.exit_codes import exit_code
from clip_pkg.cli.model_arguments import (
    embed_parser,
    explain_parser,
    export_parser,
    predict_parser,
)
from clip_pkg.cli.parser import Parser
from clip_pkg.config.flags import suggest_flag


# Each command imports its room only when it runs: `--help` and a rejected config stay fast.
def _train(parsed: argparse.Namespace) -> int:
    loaded = read_configs(parsed)
    from clip_pkg.launch.training import train  # noqa: PLC0415

    return train(parsed, loaded)


def _validate(parsed: argparse.Namespace) -> int:
    loaded = read_configs(parsed)
    from clip_pkg.launch.training import validate  # noqa: PLC0415

    return validate(parsed, loaded)


def _plan(parsed: argparse.Namespace) -> int:
    loaded = read_configs(parsed)
    from clip_pkg.cli.plan import plan  # noqa: PLC0415

    return plan(parsed, loaded)


def _status(parsed: argparse.Namespace) -> int:
    from clip_pkg.launch.status import show_status  # noqa: PLC0415

    return show_status(parsed.directory, watch=parsed.watch)


def _prefetch(parsed: argparse.Namespace) -> int:
    from clip_pkg.cli.commands import prefetch  # noqa: PLC0415

    return prefetch(parsed.config_file)


def _class_texts(parsed: argparse.Namespace) -> int:
    from clip_pkg.cli.commands import class_texts  # noqa: PLC0415

    return class_texts(parsed.data_dir, parsed.output, parsed.text_template)


def _schema(parsed: argparse.Namespace) -> int:
    from clip_pkg.cli.commands import schema  # noqa: PLC0415

    del parsed
    return schema()


def _summarize(parsed: argparse.Namespace) -> int:
    from clip_pkg.cli.commands import summarize_directory  # noqa: PLC0415

    return summarize_directory(parsed.directory)


def _compare(parsed: argparse.Namespace) -> int:
    from clip_pkg.cli.compare import compare_directories  # noqa: PLC0415

    return compare_directories(parsed)


def _predict(parsed: argparse.Namespace) -> int:
    from clip_pkg.cli.predict import predict  # noqa: PLC0415

    return predict(parsed)


def _explain(parsed: argparse.Namespace) -> int:
    from clip_pkg.cli.explain import explain  # noqa: PLC0415

    return explain(parsed)


def _embed(parsed: argparse.Namespace) -> int:
    from clip_pkg.cli.embed import embed  # noqa: PLC0415

    return embed(parsed)


def _refit(parsed: argparse.Namespace) -> int:
    from clip_pkg.launch.refit import refit  # noqa: PLC0415

    return refit(parsed)


def _export(parsed: argparse.Namespace) -> int:
    from clip_pkg.cli.export import export  # noqa: PLC0415

    return export(parsed)


def _report(parsed: argparse.Namespace) -> int:
    from clip_pkg.cli.report import report  # noqa: PLC0415

    return report(parsed)


COMMANDS: dict[str, tuple[Callable[[], Parser], Callable[[argparse.Namespace], int]]] = {
    "validate": (validate_parser, _validate),
    "prefetch": (prefetch_parser, _prefetch),
    "class-texts": (class_texts_parser, _class_texts),
    "schema": (schema_parser, _schema),
    "plan": (plan_parser, _plan),
    "status": (status_parser, _status),
    "summarize": (summarize_parser, _summarize),
    "compare": (compare_parser, _compare),
    "predict": (predict_parser, _predict),
    "explain": (explain_parser, _explain),
    "embed": (embed_parser, _embed),
    "report": (report_parser, _report),
    "refit": (refit_parser, _refit),
    "export": (export_parser, _export),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0] if words and words[0] in COMMANDS else ""
    make_parser, run = COMMANDS.get(name, (training_parser, _train))
    parser = make_parser()

    def command() -> int:
        parsed, unknown = parser.parse_known_args(words[1:] if name else words)
        if unknown:
            raise UserError(_unknown(unknown[0], parser))
        parser.check_needed(parsed)
        return run(parsed)

    return exit_code(command)


def _unknown(word: str, parser: Parser) -> str:
    if not word.startswith("-"):
        return f"{word!r} is no command; there are {', '.join(COMMANDS)}, or flags to train"
    near = suggest_flag(word, parser)
    return f"{word} is no flag" + (f"; did you mean {near}?" if near else "; --help lists all")
