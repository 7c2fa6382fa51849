"""How long an input may be. Imports transformers only: it travels with a saved model's code."""

from __future__ import annotations

import logging

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

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
