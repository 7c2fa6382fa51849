"""The model: one shared encoder, pooling, a linear head per task. Imports torch and transformers only."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING, MODEL_MAPPING
from transformers.utils import ModelOutput
from transformers.utils import logging as transformers_logging

from .configuration import MultiTaskConfig
from .errors import InputError, unknown
from .inputs import longest_input
from .kinds import KINDS, TaskHead
from .model_files import copy_code, describe_for_sentence_transformers

logger = logging.getLogger(__name__)


@dataclass
class MultiTaskOutput(ModelOutput):  # type: ignore[misc]  # transformers' base class is untyped
    """What a forward gives.

    Attributes:
        loss: mean over the rows of the task's loss; only with labels. *Shape:* ()
        logits: the head's output; `model.decode(task, logits)` reads it. *Shape:* (rows, head width)

    Of several tasks, both are `{task: that}`.
    """

    loss: Tensor | dict[str, Tensor] | None = None
    logits: Tensor | dict[str, Tensor] | None = None


def pool(hidden: Tensor, mask: Tensor, how: str) -> Tensor:
    """One vector per row from the vectors of its tokens; padding has no influence.

    Args:
        hidden: *Shape:* (rows, tokens, width)
        mask: 1 at real tokens, 0 at padding. *Shape:* (rows, tokens)
        how: "mean", "cls" or "max".

    Returns:
        *Shape:* (rows, width)
    """
    if how == "cls":
        return hidden[:, 0]
    real = mask.unsqueeze(-1).bool()
    if how == "max":
        return hidden.masked_fill(~real, torch.finfo(hidden.dtype).min).amax(dim=1)
    return hidden.masked_fill(~real, 0).sum(dim=1) / real.sum(dim=1).clamp(min=1)


class MultiTaskModel(PreTrainedModel):  # type: ignore[misc]  # transformers' base class is untyped
    """A shared encoder with a head per task.

    `MultiTaskModel.from_pretrained(folder_or_hub_id)` loads a saved one; `load_model` also takes a plain encoder and
    adds heads.
    """

    config_class = MultiTaskConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    accepts_loss_kwargs = False  # the loss is a mean over the task's rows; the trainer does the rest
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: MultiTaskConfig) -> None:
        super().__init__(config)
        self.encoder = _encoder_without_pooler(config.encoder_config)
        if config.encoder_config.model_type == "mpnet" and config._attn_implementation != "eager":
            from .mpnet import use_fused_attention  # late: transformers' MPNet takes a while to import

            use_fused_attention(self.encoder)
        self.dropout = nn.Dropout(config.head_dropout)
        width = config.encoder_config.hidden_size
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, KINDS[head.kind].head_width(head)) for name, head in config.heads.items()}
        )
        self.task_heads = config.heads
        self.source: dict[str, Any] = {}  # how it was loaded, where it was
        self._encoder_inputs = set(inspect.signature(self.encoder.forward).parameters)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        task: str | None = None,
        labels: Tensor | None = None,
        batches: Mapping[str, Mapping[str, Tensor]] | None = None,
        **inputs: Any,
    ) -> MultiTaskOutput:
        """Logits of one task's head and, with labels, its loss; with `batches`, the same of several tasks.

        Args:
            input_ids: *Shape:* (rows, tokens)
            attention_mask: 1 at real tokens; all are real unless given. *Shape:* (rows, tokens)
            task: a key of `config.heads`.
            labels: class indices (int64) or values in the label's range. *Shape:* (rows,)
            batches: task -> the arguments above, in place of them; losses and logits then come by task. One call for
                all tasks is what engines that shard the parameters want.
            inputs: what else the tokenizer gave; what the encoder does not take is left out.

        Raises:
            InputError: for a task that the model has no head for.
        """
        if batches is not None:
            outputs = {name: self._of_task(name, **batch) for name, batch in batches.items()}
            losses = {name: loss for name, (loss, _) in outputs.items() if loss is not None}
            return MultiTaskOutput(loss=losses, logits={name: logits for name, (_, logits) in outputs.items()})
        if input_ids is None or task is None:
            raise InputError("forward wants input_ids and task, or batches")
        loss, logits = self._of_task(task, input_ids, attention_mask, labels, **inputs)
        return MultiTaskOutput(loss=loss, logits=logits)

    def _of_task(
        self,
        task: str,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> tuple[Tensor | None, Tensor]:
        """Loss, if there are labels, and logits of one task."""
        if task not in self.heads:
            raise unknown("task", task, self.heads)
        logits = self.heads[task](self.dropout(self.embed(input_ids, attention_mask, **inputs)))
        if labels is None:
            return None, logits
        head = self.task_heads[task]
        return KINDS[head.kind].loss(logits, labels, head), logits

    def embed(self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Any) -> Tensor:
        """One vector per row, the one that every head reads. *Shape:* (rows, tokens) -> (rows, width)"""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        inputs = {name: value for name, value in inputs.items() if name in self._encoder_inputs}
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        return pool(hidden, attention_mask, self.config.pooling)

    def decode(self, task: str, logits: Tensor) -> Tensor:
        """Class indices, or values in the label's range, from a task's logits. *Shape:* (rows, width) -> (rows,)"""
        head = self.task_heads[task]
        return KINDS[head.kind].decode(logits, head)

    def head_parameters(self) -> dict[str, list[Parameter]]:
        """Task -> the parameters that only this task reaches."""
        return {task: list(head.parameters()) for task, head in self.heads.items()}

    def shared_parameters(self) -> list[Parameter]:
        """The parameters that every task reaches: the encoder's."""
        return list(self.encoder.parameters())

    @classmethod
    def from_pretrained(cls, *args: Any, use_safetensors: bool = True, **kwargs: Any) -> Any:
        """As in transformers, from safetensors only unless asked otherwise: other forms are pickles, which run code."""
        loaded = super().from_pretrained(*args, use_safetensors=use_safetensors, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.source = {key: kwargs[key] for key in ("revision", "token", "cache_dir") if key in kwargs}
        return loaded

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """As in transformers, and the code beside the weights: `trust_remote_code=True` loads them without hf_mtl."""
        if kwargs.get("is_main_process", True):
            copy_code(Path(save_directory))
        super().save_pretrained(save_directory, **kwargs)

    def save_encoder(self, folder: str | os.PathLike[str], tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        """Write the encoder alone, as a folder that `AutoModel` and sentence-transformers open.

        sentence-transformers pools as this model does and gives the vectors of `embed`.

        Args:
            folder: is made if need be.
            tokenizer: goes with it; the one beside the saved model that this one was loaded from unless given.

        Raises:
            InputError: without a tokenizer, for a model that was not loaded from anywhere.
        """
        if tokenizer is None:
            if not self.name_or_path:
                raise InputError("save_encoder needs the tokenizer: this model was not loaded from a folder or the Hub")
            config = self.config.encoder_config
            tokenizer = AutoTokenizer.from_pretrained(self.name_or_path, config=config, **self.source)
        self.encoder.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        width, limit = self.config.encoder_config.hidden_size, longest_input(self.config, tokenizer)
        describe_for_sentence_transformers(Path(folder), width, self.config.pooling, limit)


def _encoder_without_pooler(config: PreTrainedConfig) -> PreTrainedModel:
    """The bare encoder; a pooler would hold parameters that never get a gradient."""
    accepted = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    options = {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {}
    return AutoModel.from_config(config, **options)


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
