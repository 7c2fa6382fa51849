"""The model and the tokenizer that a run starts from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..model.configuration import MultiTaskConfig
from ..model.heads import HeadSpec
from ..model.modeling import MultiTaskModel
from ..pretrained import fit_embeddings, load_config, load_model, load_tokenizer
from ..tasks.demo import demo_encoder_config, demo_tokenizer
from ..tasks.spec import EMBEDDED, TaskSpec
from .arguments import ModelArguments, MultiTaskTrainingArguments

logger = logging.getLogger(__name__)


def hub_options(model_args: ModelArguments) -> dict[str, Any]:
    """What `from_pretrained` gets beside a name."""
    return {"revision": model_args.model_revision, "trust_remote_code": model_args.trust_remote_code}


def load_model_and_tokenizer(
    model_args: ModelArguments, tasks: list[TaskSpec]
) -> tuple[MultiTaskModel, PreTrainedTokenizerBase]:
    """A saved model, an encoder with fresh heads, or the small untrained encoder of the demo."""
    name = model_args.model_name_or_path
    heads = [spec.head for spec in tasks]
    shape: dict[str, Any] = {k: v for k in ("pooling", "head_dropout") if (v := getattr(model_args, k)) is not None}
    if name == EMBEDDED:
        tokenizer = demo_tokenizer()
        return MultiTaskModel(MultiTaskConfig(demo_encoder_config(len(tokenizer)), heads, **shape)), tokenizer
    hub = hub_options(model_args)
    model = load_model(name, heads, **shape, **hub)
    tokenizer = load_tokenizer(name, **hub)
    fit_embeddings(model, tokenizer, name, model_args.resize_embeddings)
    return model, tokenizer


def heads_to_keep(
    model_args: ModelArguments, args: MultiTaskTrainingArguments, tasks: list[TaskSpec]
) -> dict[str, HeadSpec]:
    """Task -> head, of the checkpoint or the saved model that a run goes on from, where some task wants its labels."""
    name = args.resume_from_checkpoint or model_args.model_name_or_path
    if not any(spec.is_auto for spec in tasks) or name == EMBEDDED:
        return {}
    options = {} if args.resume_from_checkpoint else hub_options(model_args)
    config = load_config(name, **options)
    return config.heads if isinstance(config, MultiTaskConfig) else {}


def refuse_fresh_heads(model_args: ModelArguments, args: MultiTaskTrainingArguments, tasks: list[TaskSpec]) -> None:
    """Refuse to write untrained heads into a trained model's folder or to the Hub, or to answer with them."""
    folder, name = Path(args.output_dir), model_args.model_name_or_path
    config = None if name == EMBEDDED else load_config(name, **hub_options(model_args))
    saved = config.heads if isinstance(config, MultiTaskConfig) else {}
    fresh = ", ".join(spec.name for spec in tasks if spec.name not in saved)
    if not fresh:
        return
    if args.push_to_hub:
        what = "would be pushed"
    elif (folder / "config.json").exists():
        what = f"would write into the trained model's folder {str(folder)!r}"
    elif saved:
        what = f"fresh ones answer at random; its heads are {', '.join(saved)}"
    else:
        logger.warning("nothing was trained for %s: the scores and predictions are those of random heads", fresh)
        return
    raise InputError(
        f"model_name_or_path {name!r} has no trained heads for {fresh}, and {what}; add --do_train, or name a trained "
        "model"
    )
