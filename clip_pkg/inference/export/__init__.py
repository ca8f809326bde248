"""Exports for other programs: ONNX, safetensors, open_clip, each with a model card."""

from typing import Literal, TypeAlias, get_args

Format: TypeAlias = Literal["onnx", "safetensors", "open_clip"]
FORMATS: tuple[Format, ...] = get_args(Format)
