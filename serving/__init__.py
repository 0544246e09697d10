"""Saved models as graphs for other programs: SavedModel, ONNX, LiteRT."""
