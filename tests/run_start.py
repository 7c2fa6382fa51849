"""The model and tokenizer that a run of the command starts with."""

from transformers import set_seed

from hf_mtl.training.argument_parser import parse_arguments
from hf_mtl.training.run_model import load_model_and_tokenizer


def load(specs, *flags, seed=0):
    set_seed(seed)
    arguments, _, _ = parse_arguments([*flags, "--output_dir", "out", "--use_cpu"])
    return load_model_and_tokenizer(arguments, specs)
