"""Documents → examples → shards → batches."""
