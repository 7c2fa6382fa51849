"""What a folder or a Hub id holds: the model with the heads wanted, its configuration, its tokenizer."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING
from transformers.utils import logging as transformers_logging

from .configuration import MultiTaskConfig
from .errors import InputError
from .kinds import TaskHead
from .modeling import MultiTaskModel

logger = logging.getLogger(__name__)


def check_encoder(config: PreTrainedConfig, name: str) -> None:
    """Raise InputError unless `config` belongs to a bidirectional text encoder, one that has a masked-language head."""
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING or config.is_encoder_decoder:
        raise InputError(
            f"model_name_or_path {name!r} holds a model of type {config.model_type!r}, which is no text encoder; "
            "wanted one like BERT, RoBERTa, MPNet, DistilBERT, ELECTRA, DeBERTa, ALBERT or ModernBERT"
        )


def load_model(
    name_or_path: str,
    heads: Iterable[TaskHead],
    *,
    pooling: str | None = None,
    head_dropout: float | None = None,
    **options: Any,
) -> MultiTaskModel:
    """A model with the given heads from an encoder or a saved multi-task model; says which heads are fresh.

    Args:
        name_or_path: folder or Hub id of a plain encoder or of a `MultiTaskModel`.
        heads: the heads wanted. Those that a saved model has keep their weights, the others start fresh.
        pooling, head_dropout: as in `MultiTaskConfig`; a saved model's own unless given.
        options: for `from_pretrained`, e.g. revision, token, attn_implementation.

    Raises:
        InputError: when nothing can be loaded from there, it is no encoder, or a saved head has other labels.
    """
    config = load_config(name_or_path, **options)
    wanted = {head.name: head for head in heads}
    saved: dict[str, TaskHead] = {}
    chosen: dict[str, Any] = {k: v for k, v in (("pooling", pooling), ("head_dropout", head_dropout)) if v is not None}
    chosen["base_model"] = None if os.path.isdir(name_or_path) else name_or_path
    if isinstance(config, MultiTaskConfig):
        saved = config.heads
        for name, head in wanted.items():
            if name in saved and saved[name] != head:
                raise InputError(
                    f"task {name!r} is saved in {name_or_path!r} as {saved[name]} and is declared as {head}"
                )
        chosen = {"pooling": config.pooling, "head_dropout": config.head_dropout, **chosen}
        chosen["base_model"] = config.base_model
        config = config.encoder_config
    else:
        check_encoder(config, name_or_path)
    model = _load_quietly(name_or_path, MultiTaskConfig(config, list(wanted.values()), **chosen), options)
    fresh, dropped = [n for n in wanted if n not in saved], [n for n in saved if n not in wanted]
    kept = [n for n in wanted if n in saved]
    logger.info(
        "loaded %s%s%s%s",
        name_or_path,
        f"; fresh heads: {', '.join(fresh)}" if fresh else "",
        f"; heads with their saved weights: {', '.join(kept)}" if kept else "",
        f"; saved heads left out: {', '.join(dropped)}" if dropped else "",
    )
    return model


def load_config(name_or_path: str, **options: Any) -> PreTrainedConfig:
    """The configuration at a folder or Hub id; InputError with the reason when there is none."""
    known = ("revision", "token", "cache_dir", "trust_remote_code", "local_files_only")
    hub_options = {key: value for key, value in options.items() if key in known}
    try:
        return AutoConfig.from_pretrained(name_or_path, **hub_options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"model_name_or_path {name_or_path!r} cannot be loaded: {reason}") from error


def _load_quietly(name_or_path: str, config: MultiTaskConfig, options: dict[str, Any]) -> MultiTaskModel:
    """`from_pretrained` in fp32 without its load report: fresh heads are expected, anything else is an error."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        model, report = MultiTaskModel.from_pretrained(
            name_or_path, config=config, output_loading_info=True, dtype=torch.float32, **options
        )
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"model_name_or_path {name_or_path!r} cannot be loaded: {reason}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("heads."))
    if missing:
        raise InputError(f"model_name_or_path {name_or_path!r} lacks weights of the encoder: {', '.join(missing[:5])}")
    return model


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
