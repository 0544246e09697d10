"""The tokenizer, its files, and the training of vocabularies."""
