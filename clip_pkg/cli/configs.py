"""Where configs come from: a file or flags. Imports little, so that mistakes are told at once."""

from __future__ import annotations

import argparse

from clip_pkg.base.errors import UserError
from clip_pkg.config.flags import config_from_flags, given_flags
from clip_pkg.config.load import LoadedConfigs, load_configs


def read_configs(parsed: argparse.Namespace) -> LoadedConfigs:
    """Configs from the file, or one from the flags. Raises ConfigErrors."""
    flags = given_flags(parsed)
    if parsed.config_file is None:
        if parsed.multi_config:
            raise UserError("--multi-config needs --config-file FILE")
        return config_from_flags(parsed)
    if flags:
        raise UserError(
            f"{', '.join(flags)}: settings come from {parsed.config_file} or from flags, not from "
            "both; write them into the file"
        )
    loaded = load_configs(parsed.config_file)
    if len(loaded.configs) > 1 and not parsed.multi_config:
        names = ", ".join(config.name for config in loaded.configs)
        raise UserError(
            f"{parsed.config_file} holds {len(loaded.configs)} configs ({names}); add "
            "--multi-config to train all of them"
        )
    return loaded
