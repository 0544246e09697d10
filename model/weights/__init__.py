"""Weights from and to files of every format."""
