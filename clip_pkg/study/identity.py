"""Identity of a result: digests of its inputs, which decide whether two runs may share folds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, TypeAdapter

from clip_pkg.config.keys import defaults_added_later, keys_without_effect
from clip_pkg.config.load import dump_canonical
from clip_pkg.config.schema import RunConfig

# Raise it when the same config, images, splits and seed no longer train to the same numbers:
# another order of random draws, default of an optimiser, formula of a loss or of a metric that may
# choose an epoch; summaries compute other metrics from the predictions. Then
# `tests/integration/training/test_numerics.py` fails. Do not raise it for a renamed function, a
# comment or a faster way to the same numbers: results of another version are neither resumed nor
# compared.
NUMERICS_VERSION = 1

# Before versions were declared, results held a digest of the sources. These digests are known.
VERSION_OF_CODE_DIGEST = {
    "f1d333fd546c767fe11eb5411d714c3bf59c7986945db1a5f5ddbfcc76c5916f": 1,
}
UNKNOWN_VERSION = 0

PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Identity:
    """Digests of a result's inputs, and the version of the numerics that turned them into numbers.

    Two runs with equal identities may share folds. `code` is the digest of the sources that wrote
    the result: provenance only, never compared.
    """

    config: str
    data: str
    splits: str
    class_texts: str
    code: str = field(default="", compare=False)
    numerics: int = NUMERICS_VERSION

    def differences(self, other: Identity) -> list[str]:
        """Names of the inputs in which `other` differs."""
        names = {"class_texts": "class texts", "numerics": "numerics version"}
        mine, theirs = asdict(self), asdict(other)
        return [names.get(key, key) for key in mine if key != "code" and mine[key] != theirs[key]]


def _with_version(content: Any) -> Any:
    """Add the version to an identity that was written before numerics had versions."""
    if isinstance(content, Mapping) and "numerics" not in content:
        version = VERSION_OF_CODE_DIGEST.get(content.get("code", ""), UNKNOWN_VERSION)
        return {**content, "numerics": version}
    return content


StoredIdentity: TypeAlias = Annotated[Identity, BeforeValidator(_with_version)]
_STORED: TypeAdapter[Identity] = TypeAdapter(StoredIdentity)


def identity_from_json(content: Any) -> Identity:
    """Read an identity, also of a result from before `numerics`; raises ValueError otherwise."""
    return _STORED.validate_python(content)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def config_digest(config: RunConfig) -> str:
    """Digest of the settings that affect the numbers."""
    canonical, later = dump_canonical(config), defaults_added_later()
    left_out = keys_without_effect() | {key for key in later if canonical[key] == later[key]}
    return digest({key: canonical[key] for key in canonical if key not in left_out})


def version_mark() -> str:
    """The version as it enters digests; for version 1, the code digest that was used before it."""
    declared_later = {version: code for code, version in VERSION_OF_CODE_DIGEST.items()}
    return declared_later.get(NUMERICS_VERSION, str(NUMERICS_VERSION))


@cache
def code_digest() -> str:
    """Digest of the package's sources, for provenance."""
    checksum = hashlib.sha256()
    for source in sorted(PACKAGE.rglob("*.py")):
        checksum.update(source.relative_to(PACKAGE).as_posix().encode())
        checksum.update(source.read_bytes())
    return checksum.hexdigest()
