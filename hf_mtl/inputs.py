"""How long an input may be, and what reads it. Imports transformers only: it travels with a saved model's code."""

from __future__ import annotations

import logging
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from .errors import InputError

logger = logging.getLogger(__name__)


def encoder_limit(tokenizer: PreTrainedTokenizerBase, encoder_config: PreTrainedConfig) -> int:
    """The most tokens that tokenizer and encoder can take."""
    positions = getattr(encoder_config, "max_position_embeddings", None) or tokenizer.model_max_length
    # RoBERTa's and MPNet's position numbers start at 2, so their tables hold two more than the longest input.
    table = positions - 2 if tokenizer.model_max_length > positions else positions
    return int(min(tokenizer.model_max_length, table))


def input_limit(max_seq_length: int, tokenizer: PreTrainedTokenizerBase, encoder_config: PreTrainedConfig) -> int:
    """The most tokens an input may have: what was asked for, or what tokenizer and encoder can take; says if less."""
    limit = min(max_seq_length, encoder_limit(tokenizer, encoder_config))
    if limit < max_seq_length:
        logger.info("inputs are cut to %d tokens, the most that this encoder takes", limit)
    return limit


def longest_input(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Where a saved multi-task model cuts its inputs, in tokens: as in training, or at its encoder's limit."""
    most = encoder_limit(tokenizer, config.encoder_config)
    return most if config.max_seq_length is None else min(config.max_seq_length, most)


def load_tokenizer(name: str, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer at a folder or Hub id; InputError when there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError, TypeError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"the tokenizer of model_name_or_path {name!r} cannot be loaded: {reason}") from error
    # Where there are no tokenizer files, transformers makes a tokenizer that knows special tokens only.
    if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) < 10:
        raise InputError(f"model_name_or_path {name!r} holds no tokenizer; wanted its files beside the model's")
    return tokenizer
