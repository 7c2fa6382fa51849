"""The trainer and all that happens in a run."""
