"""The model: one shared encoder, a head per task. Imports torch and transformers only."""

from __future__ import annotations

import copy
import inspect
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from transformers import (
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.utils import ModelOutput
from transformers.utils import logging as transformers_logging

from .configuration import MultiTaskConfig, as_heads, as_row
from .encoder_layers import encoder_layers
from .encoding import padded_right
from .errors import InputError, unknown_name_error
from .export_code import copy_modeling_code, describe_for_sentence_transformers
from .heads import HEADS, OPTIONS, Head, HeadSpec, mean_of
from .input_length import saved_max_length
from .model_source import check_source, check_weight_files, loading
from .pooling import pool
from .travelling_heads import check_head_files, write_head_files
from .weights import Shapes, check_all_loaded, check_to_save

logger = logging.getLogger(__name__)


@dataclass
class MultiTaskOutput(ModelOutput):  # type: ignore[misc]  # transformers' base class is untyped
    """What a forward gives.

    Attributes:
        loss: mean over the units of the task's loss; only with labels. *Shape:* ()
        logits: the head's output; `model.decode(task, logits)` reads it. *Shape:* (rows, ...)
        units: how many the loss is the mean of, rows for classification and regression; only with labels.

    Of several tasks, each is `{task: that}`.
    """

    loss: Tensor | dict[str, Tensor] | None = None
    logits: Tensor | dict[str, Tensor] | None = None
    units: int | Tensor | dict[str, int | Tensor] | None = None


class MultiTaskModel(PreTrainedModel):  # type: ignore[misc]  # transformers' base class is untyped
    """A shared encoder with a head per task.

    `MultiTaskModel.from_pretrained(folder_or_hub_id)` loads a saved one; `load_model` also takes a plain encoder and
    adds heads.
    """

    config_class = MultiTaskConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    accepts_loss_kwargs = False  # the loss is a mean over the task's units; the trainer does the rest
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: MultiTaskConfig, encoder: PreTrainedModel | None = None) -> None:
        """A model with fresh heads around a fresh encoder, or around a given one of the same configuration."""
        if config.encoder_config is None:
            raise InputError(
                "this configuration has no encoder_config, so it is no multi-task model's; load_model(name, heads) "
                "puts heads on a plain encoder"
            )
        super().__init__(config)
        self.encoder = _encoder_without_pooler(config.encoder_config) if encoder is None else encoder
        config.encoder_config = self.encoder.config  # one object, so that what changes the encoder is saved
        if config.encoder_config.model_type == "mpnet" and config._attn_implementation != "eager":
            from .mpnet_attention import use_fused_attention  # late: transformers' MPNet takes a while to import

            use_fused_attention(self.encoder)
        self.heads = nn.ModuleDict({name: self._fresh_head(head) for name, head in config.heads.items()})
        self.task_heads = config.heads
        self._load_options: dict[str, Any] = {}  # from_pretrained's; save_encoder loads with them again
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
            labels: in the `label_dtype` of the task's head: class indices (int64), values in the label's range, or
                what a kind of your own has. *Shape:* (rows, ...)
            batches: task -> the arguments above, in place of them; losses and logits then come by task. One call for
                all tasks is what engines that shard the parameters want.
            inputs: what else the tokenizer gave; what the encoder does not take is left out.

        Raises:
            InputError: for a task that the model has no head for.
        """
        if batches is not None:
            outputs = {name: self._forward_task(name, **batch) for name, batch in batches.items()}
            losses = {name: loss for name, (loss, _) in outputs.items() if loss is not None}
            return MultiTaskOutput(
                loss=losses,
                logits={name: logits for name, (_, logits) in outputs.items()},
                units={name: self.num_units(name, batches[name]["labels"]) for name in losses},
            )
        if input_ids is None or task is None:
            raise InputError("forward wants input_ids and task, or batches")
        loss, logits = self._forward_task(task, input_ids, attention_mask, labels, **inputs)
        return MultiTaskOutput(loss=loss, logits=logits, units=None if labels is None else self.num_units(task, labels))

    def _forward_task(
        self,
        task: str,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> tuple[Tensor | None, Tensor]:
        """Loss, if there are labels, and logits of one task."""
        if task not in self.heads:
            raise unknown_name_error("task", task, self.heads)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        return self.forward_head(task, self.encode(input_ids, attention_mask, **inputs), attention_mask, labels)

    def forward_head(
        self, task: str, hidden: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """Mean loss, if there are labels, and logits of one task from the encoder's output.

        *Shapes:* (rows, tokens, width), (rows, tokens), (rows, ...) -> (), (rows, ...)
        """
        logits = self._head(task)(hidden, attention_mask)
        return None if labels is None else self.mean_loss(task, logits, labels), logits

    def mean_loss(self, task: str, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over the units of a task's loss. *Shapes:* (rows, ...), (rows, ...) -> ()"""
        return mean_of(*self._head(task).loss(logits, labels))

    def num_units(self, task: str, labels: Tensor) -> int | Tensor:
        """How many units a task's loss is the mean of, from labels alone: rows, or what the head counts."""
        return self._head(task).num_units(labels)

    def _head(self, task: str) -> Head:
        head: Any = self.heads[task]  # a ModuleDict knows modules only
        return head

    def embed(self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Any) -> Tensor:
        """One vector per row, as classification and regression read it. *Shape:* (rows, tokens) -> (rows, width)"""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        return pool(self.encode(input_ids, attention_mask, **inputs), attention_mask, self.config.pooling)

    def encode(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Any) -> Tensor:
        """The encoder's output; what it does not take is left out. *Shape:* (rows, tokens) -> (rows, tokens, width)"""
        inputs = {name: value for name, value in inputs.items() if name in self._encoder_inputs}
        hidden: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        return hidden

    def decode(self, task: str, logits: Tensor) -> Tensor:
        """A prediction per row from a task's logits, such as class indices, or values in the label's range.

        *Shape:* (rows, ...) -> (rows, ...)
        """
        return self._head(task).decode(logits)

    def head_parameters(self) -> dict[str, list[Parameter]]:
        """Task -> the parameters that only this task reaches."""
        return {task: list(head.parameters()) for task, head in self.heads.items()}

    def shared_parameters(self) -> list[Parameter]:
        """The parameters that every task reaches: the encoder's."""
        return list(self.encoder.parameters())

    def encoder_layers(self) -> list[nn.Module]:
        """The encoder's layers from bottom to top; InputError when they cannot be told."""
        return encoder_layers(self.encoder)

    def set_heads(self, heads: Iterable[HeadSpec]) -> None:
        """Make these the heads, in this order: those that are there keep their weights, the others start fresh.

        A head that is there and is to be another one, of other classes for example, starts fresh too, and a line in the
        log says why.
        """
        wanted = {head.name: head for head in as_heads(heads)}
        fresh = {name: self._fresh_head(head) for name, head in wanted.items() if self.task_heads.get(name) != head}
        for name, head in fresh.items():
            head.apply(self._init_weights)
            head.to(self.device, self.dtype)
            if name not in self.task_heads:
                continue
            if differences := self.task_heads[name].differences(wanted[name], self.config.pooling):
                changes = (f"{key} was {before!r} and is {now!r}" for key, (before, now) in differences.items())
                logger.warning("task %r: its head starts afresh, without what it learned: %s", name, ", ".join(changes))
            else:
                head.load_state_dict(self._learned(name, wanted[name]), strict=False)
        self.heads = nn.ModuleDict({name: fresh[name] if name in fresh else self.heads[name] for name in wanted})
        self.config.tasks = [as_row(head) for head in wanted.values()]
        self.task_heads = wanted

    def _learned(self, task: str, spec: HeadSpec) -> dict[str, Any]:
        """Of a task's head, the tensors that one of another specification takes over.

        A tensor that is called as an option, such as `class_weights`, follows from that option.
        """
        before, tensors = self.task_heads[task], self.heads[task].state_dict()
        return {
            name: tensor
            for name, tensor in tensors.items()
            if name not in OPTIONS or getattr(before, name) == getattr(spec, name)
        }

    def _fresh_head(self, head: HeadSpec) -> Head:
        config = self.config
        pooling = head.pooling or config.pooling
        return HEADS[head.kind](head, config.encoder_config.hidden_size, pooling, config.head_dropout)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As in transformers, of the encoder: its configuration holds the number of tokens."""
        return self.encoder.resize_token_embeddings(*args, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *args: Any,
        use_safetensors: bool = True,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As in transformers, from safetensors only unless asked otherwise: other forms are pickles, which run code.

        Raises:
            InputError: when the weights cannot be read, or are not exactly those that the configuration names.
        """
        what, name = f"model {str(pretrained_model_name_or_path)!r}", str(pretrained_model_name_or_path)
        options = {"use_safetensors": use_safetensors, "output_loading_info": True, "ignore_mismatched_sizes": True}
        with loading(name, what), without_load_report():
            if pretrained_model_name_or_path is not None and not kwargs.keys() & {"config", "subfolder", "gguf_file"}:
                check_source(name, what)
            if Path(name).is_dir() and use_safetensors and not kwargs.keys() & {"subfolder", "variant", "gguf_file"}:
                check_weight_files(Path(name), what, cls.__name__)
            model, report = super().from_pretrained(pretrained_model_name_or_path, *args, **{**kwargs, **options})
        check_all_loaded(report, what)
        model._load_options = {key: kwargs[key] for key in ("revision", "token", "cache_dir") if key in kwargs}
        return (model, report) if output_loading_info else model

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """As in transformers, and the code beside the weights: `trust_remote_code=True` loads them without hf_mtl.

        Raises:
            InputError: when the weights are not those that the configuration names; nothing is written then.
        """
        if kwargs.get("is_main_process", True):
            self.check_names(kwargs.get("state_dict"))
            copy_modeling_code(Path(save_directory))
            write_head_files(Path(save_directory), self._kinds())
        super().save_pretrained(save_directory, **kwargs)

    def check_names(self, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Raise InputError for weights that could not be loaded again, such as those of a wrapped encoder.

        So it does for heads whose code could not go along.

        Args:
            state_dict: name -> tensor; the model's own unless given.
        """
        check_head_files(self._kinds())
        config = self.config.encoder_config
        encoder = _shapes(_encoder_without_weights(config).state_dict())
        wanted = {f"encoder.{name}": shape for name, shape in encoder.items()}
        with torch.device("meta"):
            heads = nn.ModuleDict({name: self._fresh_head(head) for name, head in self.config.heads.items()})
        wanted |= {f"heads.{name}": shape for name, shape in _shapes(heads.state_dict()).items()}
        found = _shapes(self.state_dict(keep_vars=True) if state_dict is None else state_dict)
        own = ("encoder.", "heads.", "_orig_mod.")  # a subclass may have more
        check_to_save(wanted, {name: shape for name, shape in found.items() if name.startswith(own)}, "the model")

    def _kinds(self) -> list[str]:
        return [head.kind for head in self.task_heads.values()]

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
            tokenizer = AutoTokenizer.from_pretrained(self.name_or_path, config=config, **self._load_options)
        wanted = _shapes(_encoder_without_weights(self.config.encoder_config).state_dict())
        check_to_save(wanted, _shapes(self.encoder.state_dict(keep_vars=True)), "the encoder")
        self.encoder.save_pretrained(folder)
        padded_right(tokenizer).save_pretrained(folder)
        width, limit = self.config.encoder_config.hidden_size, saved_max_length(self.config, tokenizer)
        describe_for_sentence_transformers(Path(folder), width, self.config.pooling, limit)


@contextmanager
def without_load_report() -> Iterator[None]:
    """Keeps transformers' table of tensors that were missing or left over out of the log: we judge those ourselves."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def pooler_option(config: PreTrainedConfig) -> dict[str, bool]:
    """What makes an encoder leave out its pooler, which would hold parameters that never get a gradient."""
    accepted = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {}


def _encoder_without_pooler(config: PreTrainedConfig) -> PreTrainedModel:
    return AutoModel.from_config(config, **pooler_option(config))


def _encoder_without_weights(config: PreTrainedConfig) -> PreTrainedModel:
    """The encoder on torch's meta device: names and shapes, no memory; made by one process, whatever the engine."""
    with torch.device("meta"):
        return MODEL_MAPPING[type(config)](copy.deepcopy(config), **pooler_option(config))


def _shapes(state_dict: Mapping[str, Tensor]) -> Shapes:
    """Name -> shape of tensors; of the whole one where DeepSpeed has left a part of it here."""
    return {name: tuple(getattr(value, "ds_shape", value.shape)) for name, value in state_dict.items()}
