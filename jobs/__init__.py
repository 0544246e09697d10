"""What pretrain.py and finetune.py keep of a job: record, signals, trials, results."""
