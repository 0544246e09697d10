"""Extractive question answering: SQuAD's and MRQA's files."""
