"""Networks in ONNX files: translated to TensorFlow's operations, and read as frozen graphs are."""

from pipeline.models.onnx.table import supported
from pipeline.models.onnx.translate import run

__all__ = ["run", "supported"]
