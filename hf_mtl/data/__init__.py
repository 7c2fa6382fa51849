"""Raw rows to batches: reading, tokens, task shares, the batch sampler."""
