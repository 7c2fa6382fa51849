"""The configuration that a multi-task model saves: its encoder's and what each head is; never where data lay."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from .errors import InputError, unknown
from .kinds import TaskHead
from .model_files import code_names

POOLINGS = ("mean", "cls", "max")


class MultiTaskConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers' base class is untyped
    """Configuration of `MultiTaskModel`.

    Args:
        encoder_config: configuration of any `AutoModel` encoder, or its dictionary.
        tasks: the heads, as `TaskHead` or their dictionaries.
        pooling: "mean" over the real tokens, "cls" (the first token) or "max" over the real tokens.
        head_dropout: dropout on the pooled vector before the heads.
        max_seq_length: the longest input in training, in tokens; predictions cut theirs there. The encoder's limit
            unless given.
        base_model: the Hub id of the encoder that training began with, if it has one.
    """

    model_type = "hf_mtl"
    sub_configs = {"encoder_config": AutoConfig}
    has_no_defaults_at_init = True
    keys_to_ignore_at_inference = ["hidden_states", "attentions"]

    def __init__(
        self,
        encoder_config: PreTrainedConfig | Mapping[str, Any] | None = None,
        tasks: Iterable[TaskHead | Mapping[str, Any]] = (),
        pooling: str = "mean",
        head_dropout: float = 0.1,
        max_seq_length: int | None = None,
        base_model: str | None = None,
        **kwargs: Any,
    ) -> None:
        if pooling not in POOLINGS:
            raise unknown("pooling", pooling, POOLINGS)
        if not 0 <= head_dropout < 1:
            raise InputError(f"head_dropout is {head_dropout}, wanted a number in [0, 1)")
        if max_seq_length is not None and (not isinstance(max_seq_length, int) or max_seq_length < 1):
            raise InputError(f"max_seq_length is {max_seq_length!r}, wanted a number of tokens")
        self.encoder_config: Any = encoder_config
        if isinstance(encoder_config, Mapping):
            values = dict(encoder_config)
            self.encoder_config = AutoConfig.for_model(values.pop("model_type"), **values)
        if self.encoder_config is not None:
            self.encoder_config._name_or_path = ""  # would publish a folder of this machine
            kwargs.setdefault("pad_token_id", self.encoder_config.pad_token_id)
        self.tasks = [as_row(task) for task in tasks]
        self.pooling = pooling
        self.head_dropout = head_dropout
        self.max_seq_length = max_seq_length
        self.base_model = base_model
        if self._auto_class is None:
            # Of the installed package; a copy that came with a model's weights has an auto class. pipeline() would take
            # the names in there for code on the Hub and refuse to run it.
            kwargs.pop("custom_pipelines", None)
        super().__init__(**kwargs)

    @property
    def heads(self) -> dict[str, TaskHead]:
        """Task name -> head, in order."""
        return {row["name"]: _as_head(row) for row in self.tasks}

    def to_dict(self) -> dict[str, Any]:
        """What goes into config.json, with the names by which `trust_remote_code` finds the code beside it."""
        return {**super().to_dict(), **code_names()}


def as_row(task: TaskHead | Mapping[str, Any]) -> dict[str, Any]:
    """The plain dictionary that goes into config.json; checked by way of `TaskHead`."""
    row = dataclasses.asdict(task if isinstance(task, TaskHead) else _as_head(task))
    return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items() if value is not None}


def _as_head(row: Mapping[str, Any]) -> TaskHead:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return TaskHead(**values)
