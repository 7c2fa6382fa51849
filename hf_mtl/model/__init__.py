"""Exactly what travels with a saved model: these modules import each other, torch, transformers and nothing else."""
