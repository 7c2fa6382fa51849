"""Code that hides the package and what it needs from the rest of a script."""

BLOCK = """
import sys
for name in ("hf_mtl", "scipy", "sklearn", "datasets", "evaluate", "accelerate", "pytorch_optimizer"):
    sys.modules[name] = None  # which is how Python notes that there is no such module
"""
