"""How long an input may be, and what pads it. Imports torch and transformers only: it travels with a saved model."""

from __future__ import annotations

import json
import logging
from functools import lru_cache

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from .errors import InputError

logger = logging.getLogger(__name__)


def encoder_max_length(tokenizer: PreTrainedTokenizerBase, encoder_config: PreTrainedConfig) -> int:
    """The most tokens that tokenizer and encoder can take."""
    most = int(tokenizer.model_max_length)
    positions = getattr(encoder_config, "max_position_embeddings", None)
    if not positions:
        return most
    return min(most, positions - _first_position(encoder_config.to_json_string(use_diff=False)))


@lru_cache(maxsize=64)
def _first_position(encoder_config: str) -> int:
    """The number of the first token's position, from an encoder's configuration as JSON.

    RoBERTa and those made after it number positions from the padding's index + 1; their table holds so many fewer
    tokens. The encoder is built without memory for its weights, since no configuration tells.
    """
    config = AutoConfig.for_model(**json.loads(encoder_config))
    with torch.device("meta"):
        encoder = MODEL_MAPPING[type(config)](config)
    table = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def training_max_length(
    max_seq_length: int, tokenizer: PreTrainedTokenizerBase, encoder_config: PreTrainedConfig
) -> int:
    """The most tokens an input may have: what was asked for, or what tokenizer and encoder can take; says if less."""
    limit = min(max_seq_length, encoder_max_length(tokenizer, encoder_config))
    if limit < max_seq_length:
        logger.info("inputs are cut to %d tokens, the most that this encoder takes", limit)
    return limit


def saved_max_length(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Where a saved multi-task model cuts its inputs, in tokens: as in training, or at its encoder's limit."""
    most = encoder_max_length(tokenizer, config.encoder_config)
    return most if config.max_seq_length is None else min(config.max_seq_length, most)


def check_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InputError for a tokenizer without a token to pad with."""
    if tokenizer.pad_token_id is None:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has no pad_token, with which rows are made equally long; add "
            '"pad_token" to its tokenizer_config.json: the token that its encoder was trained to see there'
        )


def num_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many embeddings a tokenizer's ids need; ids may have gaps."""
    return max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, encoder_config: PreTrainedConfig) -> None:
    """Raise InputError for a tokenizer that cannot pad or that has tokens which the encoder does not know."""
    check_padding(tokenizer)
    if (needed := num_tokens(tokenizer)) > encoder_config.vocab_size:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has {needed} tokens and the encoder knows "
            f"{encoder_config.vocab_size}; wanted the tokenizer that was saved with the model"
        )
