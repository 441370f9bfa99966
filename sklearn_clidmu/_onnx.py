"""ONNX."""

export_onnx = None
