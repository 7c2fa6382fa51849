"""What a folder or a Hub id holds: the model with the heads wanted, its configuration, its tokenizer."""

from __future__ import annotations

import copy
import hashlib
import inspect
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING, MODEL_MAPPING

from .errors import InputError
from .model.configuration import MultiTaskConfig, as_heads
from .model.heads import HeadSpec
from .model.input_length import check_padding, num_tokens
from .model.model_source import check_source, check_text_files, check_weight_files, loading
from .model.modeling import MultiTaskModel, pooler_option, without_load_report
from .model.weights import check_encoder_loaded

logger = logging.getLogger(__name__)
_CONFIG_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "subfolder")
_FP32 = (
    "training is in fp32, and --bf16 computes in half precision; to predict in it, "
    "MultiTaskModel.from_pretrained(name, dtype=...) loads a saved model"
)
_OWN_OPTIONS = {
    "dtype": _FP32,
    "torch_dtype": _FP32,
    "config": "it is read from there; pooling and head_dropout may be given",
    **dict.fromkeys(
        ("output_loading_info", "ignore_mismatched_sizes", "use_safetensors"), "it checks what was loaded itself"
    ),
}
# Types with a masked-language head that cannot be used all the same, and why.
_REFUSED_TYPES = {
    "funnel": "may shorten the sequence",
    "mra": "attends through CUDA kernels of its own, and without them to nothing",
    "reformer": "gives vectors of another width than its hidden_size",
    "tapas": "reads tables",
}


def weights_digest(folder: Path) -> str:
    """A digest of what a saved model answers by: its configuration and its weights."""
    digest = hashlib.sha256()
    for file in (folder / "config.json", *sorted(folder.glob("model*.safetensors"))):
        with open(file, "rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]


def check_encoder(config: PreTrainedConfig, name: str) -> None:
    """Raise InputError unless `config` belongs to a bidirectional text encoder, one that has a masked-language head."""
    wanted = "wanted one like BERT, RoBERTa, MPNet, DistilBERT, ELECTRA, DeBERTa, ALBERT or ModernBERT"
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING or config.is_encoder_decoder:
        raise InputError(
            f"model_name_or_path {name!r} holds a model of type {config.model_type!r}, which is no text encoder; "
            f"{wanted}"
        )
    if getattr(config, "is_decoder", False):
        raise InputError(
            f"model_name_or_path {name!r}: is_decoder is true in its config.json, so no token sees those after it; "
            "wanted an encoder"
        )
    reason = _REFUSED_TYPES.get(config.model_type)
    if reason is None:
        takes = inspect.signature(MODEL_MAPPING[type(config)].forward).parameters
        reads_text = {"input_ids", "attention_mask"} <= takes.keys() and "pixel_values" not in takes
        reason = None if reads_text else "does not read padded text alone"
    if reason is not None:
        raise InputError(
            f"model_name_or_path {name!r} holds a model of type {config.model_type!r}, which {reason}; {wanted}"
        )
    if config.model_type == "xmod" and not config.default_language:
        raise InputError(
            f'model_name_or_path {name!r} needs a language: write "default_language" into its config.json, one of '
            f"{', '.join(config.languages)}"
        )


def load_model(
    name_or_path: str | os.PathLike[str],
    heads: Iterable[HeadSpec],
    *,
    pooling: str | None = None,
    head_dropout: float | None = None,
    **options: Any,
) -> MultiTaskModel:
    """A model in fp32 with the given heads, from an encoder or a saved multi-task model; says which heads are fresh.

    Args:
        name_or_path: folder or Hub id of a plain encoder or of a `MultiTaskModel`.
        heads: the heads wanted. Those that a saved model has keep their weights, the others start fresh.
        pooling: as in `MultiTaskConfig`; a saved model's own unless given.
        head_dropout: as in `MultiTaskConfig`; a saved model's own unless given.
        options: for `from_pretrained`, e.g. revision, token, attn_implementation.

    Raises:
        InputError: for heads that are none, and an option that is not for the caller; when nothing can be loaded from
            there, it is no encoder, its weights are not those that its configuration names, or a saved head has other
            labels.
    """
    for option in options:
        if option in _OWN_OPTIONS:
            raise InputError(f"load_model takes no {option}: {_OWN_OPTIONS[option]}")
    name, wanted = str(name_or_path), as_heads(heads)
    config = load_config(name, **options)
    options.pop("trust_remote_code", None)  # of the tokenizer's code; neither kind of model brings any of its own
    chosen: dict[str, Any] = {k: v for k, v in (("pooling", pooling), ("head_dropout", head_dropout)) if v is not None}
    if isinstance(config, MultiTaskConfig):
        saved = config.heads
        model = _load_saved(name, config, wanted, chosen, options)
    else:
        saved = {}
        model = _load_encoder(name, config, wanted, chosen, options)
    fresh, dropped = [head.name for head in wanted if head.name not in saved], saved.keys() - model.task_heads.keys()
    kept = [head.name for head in wanted if head.name in saved]
    logger.info(
        "loaded %s%s%s%s",
        name,
        f"; fresh heads: {', '.join(fresh)}" if fresh else "",
        f"; heads with their saved weights: {', '.join(kept)}" if kept else "",
        f"; saved heads left out: {', '.join(n for n in saved if n in dropped)}" if dropped else "",
    )
    return model


def _load_saved(
    name: str, config: MultiTaskConfig, heads: list[HeadSpec], chosen: dict[str, Any], options: dict[str, Any]
) -> MultiTaskModel:
    """A saved multi-task model, all of it, with its heads then made those wanted."""
    saved = config.heads
    kept = ("pooling", "head_dropout", "max_seq_length", "base_model")
    shape = {**{key: getattr(config, key) for key in kept}, **chosen}
    config = MultiTaskConfig(config.encoder_config, saved.values(), **shape)
    for head in heads:
        if head.name in saved and saved[head.name].differences(head, config.pooling):
            raise InputError(f"task {head.name!r} is saved in {name!r} as {saved[head.name]} and is declared as {head}")
    _check_weights(name, "MultiTaskModel", options)
    model: MultiTaskModel = MultiTaskModel.from_pretrained(name, config=config, dtype=torch.float32, **options)
    model.set_heads(heads)
    return model


def _load_encoder(
    name: str, config: PreTrainedConfig, heads: list[HeadSpec], chosen: dict[str, Any], options: dict[str, Any]
) -> MultiTaskModel:
    """A plain encoder's weights as `AutoModel` reads them, in a model with fresh heads."""
    check_encoder(config, name)
    if "distributed_config" in options:
        raise InputError("distributed_config is for a saved multi-task model: load this encoder without, and save that")
    what = f"model_name_or_path {name!r}"
    _check_weights(name, "AutoModel", options)
    how: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True, "use_safetensors": True}
    with loading(name, what), without_load_report():
        encoder, report = AutoModel.from_pretrained(
            name, config=config, dtype=torch.float32, trust_remote_code=False, **pooler_option(config), **how, **options
        )
    check_encoder_loaded(report, dict(encoder.named_children()), encoder.base_model_prefix, what)
    base_model = None if os.path.isdir(name) else name
    # A copy: the model's constructor would turn off the attention of an encoder that shared its configuration.
    config = MultiTaskConfig(copy.deepcopy(encoder.config), heads, base_model=base_model, **chosen)
    if "attn_implementation" in options:
        config._attn_implementation = options["attn_implementation"]
    config.name_or_path = name
    encoder.config._name_or_path = ""  # would publish a folder of this machine
    model = MultiTaskModel(config, encoder).eval()
    model.heads.to(encoder.device)
    model._load_options = {key: options[key] for key in ("revision", "token", "cache_dir") if key in options}
    return model


def _check_weights(name: str, opener: str, options: dict[str, Any]) -> None:
    """Look at a folder's weight files before anything is read, so that the message names the argument."""
    if os.path.isdir(name) and not options.keys() & {"subfolder", "variant"}:
        check_weight_files(Path(name), f"model_name_or_path {name!r}", opener)


def load_config(name_or_path: str | os.PathLike[str], *, what: str = "", **options: Any) -> PreTrainedConfig:
    """The configuration at a folder or Hub id, without running code of theirs; InputError with the reason if none.

    Args:
        name_or_path: folder or Hub id.
        what: what the user calls it, for messages; its model_name_or_path unless given.
        options: for `from_pretrained`.
    """
    name = str(name_or_path)
    what = what or f"model_name_or_path {name!r}"
    known = {k: v for k, v in options.items() if k in _CONFIG_OPTIONS}
    if "subfolder" not in options:
        check_source(name, what)
    with loading(name, what):
        values, _ = PreTrainedConfig.get_config_dict(name, **known)
        model_type = values.get("model_type")
        if values.get("auto_map") and model_type not in CONFIG_MAPPING:
            raise InputError(
                f"{what} holds an encoder of type {model_type!r} that needs code of its own, which is not supported, "
                "with --trust_remote_code neither; wanted a type that transformers has, like BERT or ModernBERT"
            )
        return AutoConfig.from_pretrained(name, trust_remote_code=False, **known)


def load_tokenizer(name_or_path: str | os.PathLike[str], *, what: str = "", **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer at a folder or Hub id, with a token to pad with; InputError when there is none.

    Args:
        name_or_path: folder or Hub id.
        what: as in `load_config`.
        options: for `from_pretrained`.
    """
    name = str(name_or_path)
    what = what or f"model_name_or_path {name!r}"
    if os.path.isdir(name):
        check_text_files(Path(name), what)
    with loading(name, f"the tokenizer of {what}"):
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    # Where there are no tokenizer files, transformers makes a tokenizer that knows special tokens only.
    if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) < 10:
        raise InputError(f"{what} holds no tokenizer; wanted its files beside the model's")
    if tokenizer.pad_token_id is None:
        _give_pad_token(tokenizer, name, options)
    return tokenizer


def _give_pad_token(tokenizer: PreTrainedTokenizerBase, name: str, options: dict[str, Any]) -> None:
    """Let a tokenizer pad with the token that its encoder's configuration names, if that is no piece of text."""
    try:
        config = load_config(name, **options)
    except InputError:  # a tokenizer alone
        return check_padding(tokenizer)
    index = getattr(config, "encoder_config", config).pad_token_id
    token = tokenizer.convert_ids_to_tokens(index) if index is not None and 0 <= index < len(tokenizer) else None
    if token is None or not (token in tokenizer.all_special_tokens or re.fullmatch(r"<[^<>]+>|\[[^\[\]]+\]", token)):
        return check_padding(tokenizer)
    tokenizer.pad_token = token
    logger.info("the tokenizer of %s names no pad_token; it pads with %s, its encoder's pad_token_id", name, token)


def fit_embeddings(model: MultiTaskModel, tokenizer: PreTrainedTokenizerBase, name: str, resize: bool) -> None:
    """See that the encoder has an embedding for every token of its tokenizer.

    Args:
        model: its encoder's embeddings grow where that is asked for; never shrink.
        tokenizer: what it knows, the encoder has to know.
        name: of both, for the message.
        resize: give the tokens that only the tokenizer has embeddings, drawn from the distribution of the others.

    Raises:
        InputError: for a tokenizer that is larger than the encoder, unless `resize` is true.
    """
    needed, known = num_tokens(tokenizer), model.config.encoder_config.vocab_size
    if needed <= known:
        return
    found = f"model_name_or_path {name!r}: its tokenizer has {needed} tokens and its encoder knows {known}"
    if not resize:
        raise InputError(
            f"{found}; if tokens were added, --resize_embeddings makes embeddings for them, else they do not belong "
            "together"
        )
    try:
        with without_load_report():  # of how the new ones are drawn
            model.resize_token_embeddings(needed)
    except NotImplementedError as error:
        raise InputError(f"{found}; --resize_embeddings is not possible for this type of encoder") from error
    logger.info("%s: embeddings for %d more tokens, %d in all", name, needed - known, needed)
