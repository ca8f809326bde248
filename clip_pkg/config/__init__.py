"""Configs: text → checked, frozen `RunConfig`s. Nothing here imports torch."""

from clip_pkg.config.load import LoadedConfigs, configs_from_mapping, dump_canonical, load_configs
from clip_pkg.config.schema import RunConfig

__all__ = ["LoadedConfigs", "RunConfig", "configs_from_mapping", "dump_canonical", "load_configs"]
