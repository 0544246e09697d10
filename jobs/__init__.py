"""The parts of pretrain.py and finetune.py: run records, signals, trials, results."""
