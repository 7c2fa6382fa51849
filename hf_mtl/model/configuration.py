"""The configuration that a multi-task model saves: its encoder's and what each head is; never where data lay."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .errors import InputError, unknown_name_error
from .export_code import code_names
from .extra_heads import EXTRA_HEADS
from .head_classification import ClassificationHead
from .head_multi_label import MultiLabelHead
from .head_ordinal import OrdinalHead
from .head_regression import RegressionHead
from .head_similarity import SimilarityHead
from .head_token_classification import TokenClassificationHead
from .heads import HEADS, HeadSpec
from .pooling import POOLINGS
from .travelling_heads import head_file_names

FORMAT_VERSION = 1  # of config.json and what stands beside it; 0.1.0 wrote none
BUILT_IN_HEADS = (
    ClassificationHead,
    RegressionHead,
    SimilarityHead,
    OrdinalHead,
    MultiLabelHead,
    TokenClassificationHead,
)
HEADS.update(EXTRA_HEADS)
_HEADS = '[task.head for task in tasks], or in config.json [{"name": ..., "kind": ...}, ...]'
_KEYS = [field.name for field in dataclasses.fields(HeadSpec)]


class MultiTaskConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers' base class is untyped
    """Configuration of `MultiTaskModel`.

    Args:
        encoder_config: configuration of any `AutoModel` encoder, or its dictionary.
        tasks: the heads, as `HeadSpec` or their dictionaries.
        pooling: "mean" over the real tokens, "cls" (the first token) or "max" over the real tokens.
        head_dropout: dropout on the pooled vector before the heads.
        max_seq_length: the longest input in training, in tokens; predictions cut theirs there. The encoder's limit
            unless given.
        base_model: the Hub id of the encoder that training began with, if it has one.
        format_version: of the file that is read; written by this version as `FORMAT_VERSION`.
        head_files: kind -> name of the file beside the weights with its head, for kinds that are not hf_mtl's own.

    Raises:
        InputError: for a value that cannot be used, a newer format, and a kind that is not registered here.
    """

    model_type = "hf_mtl"
    sub_configs = {"encoder_config": AutoConfig}
    has_no_defaults_at_init = True
    keys_to_ignore_at_inference = ["hidden_states", "attentions"]

    def __init__(
        self,
        encoder_config: PreTrainedConfig | Mapping[str, Any] | None = None,
        tasks: Iterable[HeadSpec | Mapping[str, Any]] = (),
        pooling: str = "mean",
        head_dropout: float = 0.1,
        max_seq_length: int | None = None,
        base_model: str | None = None,
        format_version: int | None = None,
        head_files: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        _check_format(format_version)
        if pooling not in POOLINGS:
            raise unknown_name_error("pooling", pooling, POOLINGS)
        if not _is_number(head_dropout) or not 0 <= head_dropout < 1:
            raise InputError(f"head_dropout is {head_dropout!r}, wanted a number in [0, 1)")
        if max_seq_length is not None and (type(max_seq_length) is not int or max_seq_length < 1):
            raise InputError(f"max_seq_length is {max_seq_length!r}, wanted a number of tokens")
        self.encoder_config: Any = encoder_config
        if isinstance(encoder_config, Mapping):
            self.encoder_config = _as_encoder_config(encoder_config)
        elif encoder_config is not None and not isinstance(encoder_config, PreTrainedConfig):
            raise InputError(f"encoder_config is {encoder_config!r:.80}, wanted an encoder's configuration")
        if self.encoder_config is not None:
            self.encoder_config._name_or_path = ""  # would publish a folder of this machine
            kwargs.setdefault("pad_token_id", self.encoder_config.pad_token_id)
        self.tasks = [as_row(head) for head in as_heads(_of_known_kinds(tasks, head_files or {}))]
        self.pooling = pooling
        self.head_dropout = head_dropout
        self.max_seq_length = max_seq_length
        self.base_model = base_model
        self.format_version = FORMAT_VERSION
        if self._auto_class is None:
            # Of the installed package; a copy that came with a model's weights has an auto class. pipeline() would take
            # the names in there for code on the Hub and refuse to run it.
            kwargs.pop("custom_pipelines", None)
        super().__init__(**kwargs)

    @property
    def heads(self) -> dict[str, HeadSpec]:
        """Task name -> head, in order."""
        return {row["name"]: _as_head(row) for row in self.tasks}

    def to_dict(self) -> dict[str, Any]:
        """What goes into config.json, with the names by which `trust_remote_code` finds the code beside it."""
        files = head_file_names(row["kind"] for row in self.tasks)
        return {**super().to_dict(), **code_names(), **({"head_files": files} if files else {})}


def _check_format(version: object) -> None:
    """Raise InputError for a format that this version does not know."""
    if version is None:
        return
    if type(version) is not int or version < 1:
        raise InputError(f"format_version is {version!r}, wanted a whole number from 1; fetch config.json again")
    if version > FORMAT_VERSION:
        raise InputError(
            f"format_version is {version!r}, and this hf_mtl knows the formats up to {FORMAT_VERSION}: the model was "
            "saved by a newer hf_mtl; pip install --upgrade hf_mtl"
        )


def _of_known_kinds(tasks: Any, files: Mapping[str, str]) -> Any:
    """The tasks; InputError for one whose head's file stands beside the weights and is not registered here."""
    for row in tasks if isinstance(tasks, list | tuple) else ():
        kind = row.get("kind") if isinstance(row, Mapping) else None
        if isinstance(kind, str) and kind not in HEADS and kind in files:
            raise InputError(
                f"task {row.get('name')!r} is of kind {kind!r}, which is not registered; its head is in "
                f"{files[kind]!r}, beside the weights. On the command line, --plugin FILE.py with the file that "
                "registers the kind; in Python, hf_mtl.plugins.load_plugin('FILE.py') first, or trust_remote_code=True "
                "in a process that does not import hf_mtl"
            )
    return tasks


def as_row(head: HeadSpec) -> dict[str, Any]:
    """The plain dictionary that goes into config.json."""
    row = dataclasses.asdict(head)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items() if value is not None}


def as_heads(tasks: Iterable[HeadSpec | Mapping[str, Any]]) -> list[HeadSpec]:
    """The heads, each a `HeadSpec`; InputError unless they are such, or their dictionaries, of different names."""
    if not isinstance(tasks, Iterable) or isinstance(tasks, str | Mapping):
        raise InputError(f"tasks is {tasks!r:.80}, wanted a list of heads: {_HEADS}")
    heads = [task if isinstance(task, HeadSpec) else _as_head(task) for task in tasks]
    names = [head.name for head in heads]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"tasks has {name!r} {names.count(name)} times, wanted each task once")
    return heads


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _as_encoder_config(values: Mapping[str, Any]) -> PreTrainedConfig:
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise InputError(
            f"encoder_config has model_type {model_type!r}, wanted a type that transformers has, such as 'bert'"
        )
    return AutoConfig.for_model(model_type, **{key: value for key, value in values.items() if key != "model_type"})


def _as_head(row: Mapping[str, Any]) -> HeadSpec:
    if not isinstance(row, Mapping):
        raise InputError(f"tasks has {row!r:.80}, wanted heads only: {_HEADS}")
    for key in _KEYS:
        if key in ("name", "kind") and key not in row:
            raise InputError(f"tasks has {dict(row)!r:.200}, wanted the key {key!r} in it, too")
    for key in row:
        if key not in _KEYS:
            raise unknown_name_error(f"key of task {row['name']!r}:", key, _KEYS)
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return HeadSpec(**values)
