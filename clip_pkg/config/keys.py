"""Every key that a config may have, in the order and the sections of the schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from clip_pkg.config.aux_dialect import AuxWeights
from clip_pkg.config.dialects import DIALECTS
from clip_pkg.config.pretrain_dialect import PretrainLoss
from clip_pkg.config.schema import RunConfig
from clip_pkg.config.schema_nodes import Node, model_schema, options

Kind: TypeAlias = Literal["boolean", "integer", "number", "string", "object", "array"]

# Each section of the schema begins with this key.
SECTIONS: Mapping[str, str] = {
    "name": "Name and model",
    "img_size": "Images",
    "class_texts_file": "Class texts",
    "batch_size": "Optimisation",
    "pretrain": "Before the folds",
    "use_weighted_sampling": "Imbalance",
    "use_cv": "Folds and choice of the epoch",
}
FLAT_SECTION = "Flat spellings of losses"


@dataclass(frozen=True)
class ConfigKey:
    """One key that a config may have.

    node: its JSON Schema, references resolved.
    default: value, as JSON, when the key is left out.
    flat: whether only the dialects know it.
    """

    key: str
    section: str
    node: Node
    default: Any
    flat: bool

    @property
    def description(self) -> str:
        """What the key means."""
        return str(self.node.get("description", ""))

    @property
    def kinds(self) -> frozenset[Kind]:
        """Types of JSON value that it takes, null aside."""
        return frozenset(
            "object" if "properties" in option else option["type"]
            for option in options(self.node)
            if option.get("type") != "null"
        )

    @property
    def has_choices(self) -> bool:
        """Whether only listed values are allowed."""
        return any("enum" in option for option in options(self.node))

    @property
    def nullable(self) -> bool:
        """Whether null is allowed."""
        return any(option.get("type") == "null" for option in options(self.node))


@cache
def config_keys() -> tuple[ConfigKey, ...]:
    """Every key of a config in the schema's order, then the flat ones; without `sweep`."""
    keys = []
    section = ""
    for key, node in model_schema(RunConfig)["properties"].items():
        section = SECTIONS.get(key, section)
        keys.append(ConfigKey(key, section, node, _default(RunConfig, key), flat=False))
    flat_models: tuple[type[BaseModel], ...] = (*DIALECTS, AuxWeights, PretrainLoss)
    for model in flat_models:
        for key, node in model_schema(model)["properties"].items():
            keys.append(ConfigKey(key, FLAT_SECTION, node, _default(model, key), flat=True))
    return tuple(keys)


@cache
def key_names() -> tuple[str, ...]:
    """Names of all keys, `sweep` included."""
    return (*(key.key for key in config_keys()), "sweep")


def _default(model: type[BaseModel], key: str) -> Any:
    return to_jsonable_python(model.model_fields[key].get_default(call_default_factory=True))
