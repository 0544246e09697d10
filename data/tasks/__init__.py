"""Fine-tuning tasks: their files, features, batches and metrics."""
