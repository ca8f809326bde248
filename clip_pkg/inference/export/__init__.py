"""Trained models for other programs: ONNX, safetensors, open_clip, with a model card each."""
