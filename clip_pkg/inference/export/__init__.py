"""Exports for other programs: ONNX, safetensors, open_clip, each with a model card."""
