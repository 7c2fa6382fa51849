"""Set-ups in which the tasks' gradients would be wrong: refused when the trainer is built, with what to use instead."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch.distributed.tensor import DTensor
from transformers.trainer_utils import HubStrategy

from ..errors import InputError
from ..gradients.method import make_gradient_method
from ..model.modeling import MultiTaskModel
from ..tasks.spec import TaskSpec
from .arguments import MultiTaskTrainingArguments
from .learning_rates import levers_in_words, rates_by_depth


def check_supported(model: MultiTaskModel, args: MultiTaskTrainingArguments, tasks: Sequence[TaskSpec]) -> None:
    """Raise InputError for a set-up in which the gradients would be wrong, with what to use instead."""
    if args.n_gpu > 1:
        raise InputError(
            f"{args.n_gpu} GPUs in one process would use nn.DataParallel, which mixes the tasks' gradients; start with "
            f"accelerate launch --multi_gpu --num_processes {args.n_gpu} run_glue_mtl.py ..."
        )
    if shards_gradients(model, args):
        _refuse_under_sharding(args)
    for option in ("split_batches", "dispatch_batches"):
        if getattr(args.accelerator_config, option):
            raise InputError(f"{option} would deal the tasks of one batch to different processes; leave it off")
    if args.label_smoothing_factor:
        raise InputError(
            f"label_smoothing_factor is {args.label_smoothing_factor}, wanted 0: it is an option of a task; write "
            f"label_smoothing: {args.label_smoothing_factor} into the YAML of a classification"
        )
    for option in ("include_for_metrics", "label_names", "batch_eval_metrics"):
        if getattr(args, option):
            raise InputError(f"{option}: metrics are taken from all logits and labels at once; leave it off")
    if args.eval_use_gather_object or not args.eval_do_concat_batches:
        option = "eval_use_gather_object" if args.eval_use_gather_object else "eval_do_concat_batches false"
        raise InputError(f"{option}: metrics are taken from all batches as one array; leave it off")
    for option in ("bf16_full_eval", "fp16_full_eval"):
        if getattr(args, option):
            raise InputError(
                f"{option} would turn the trained model itself into half precision, also what is saved after an "
                f"evaluation; use --{option.partition('_')[0]}, which computes in it"
            )
    if args.optim.endswith("layerwise") or args.optim in ("lomo", "adalomo"):
        raise InputError(
            f"optim is {args.optim.value!r}, which steps inside a task's backward, before the tasks' gradients can be "
            "combined; choose another, such as adamw_torch_fused"
        )
    if args.prediction_loss_only and args.do_predict:
        raise InputError("prediction_loss_only would leave do_predict nothing to write; leave one of them off")
    if args.train_sampling_strategy not in ("group_by_length", "random"):
        raise InputError(
            f"train_sampling_strategy is {args.train_sampling_strategy!r}, wanted 'group_by_length' or 'random'"
        )
    if args.push_to_hub and args.hub_strategy == HubStrategy.ALL_CHECKPOINTS:
        raise InputError(
            "hub_strategy is 'all_checkpoints', wanted 'end', 'every_save' or 'checkpoint': an optimizer's state is "
            "pickled, and goes into last-checkpoint/ only"
        )
    if model.dtype != torch.float32:
        raise InputError(
            f"the model's parameters are {model.dtype}, wanted torch.float32: small updates would be lost; load it "
            "with dtype=torch.float32 and use --bf16 or --fp16, which compute in half precision"
        )
    for spec in tasks:
        there, pooling = model.task_heads.get(spec.name), model.config.pooling
        if there is None or there.as_meant(pooling) != spec.head.as_meant(pooling):
            raise InputError(f"task {spec.name!r}: the model's head is {there}, wanted {spec.head}")


def shards_gradients(model: MultiTaskModel, args: MultiTaskTrainingArguments) -> bool:
    """Whether DeepSpeed or FSDP will shard gradients, so that no process sees a task's whole gradient."""
    engines = (args.deepspeed, args.fsdp, *map(os.environ.get, ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP")))
    return any(map(bool, engines)) or any(isinstance(parameter, DTensor) for parameter in model.parameters())


def _refuse_under_sharding(args: MultiTaskTrainingArguments) -> None:
    method = make_gradient_method(args.gradient_method, **args.options("gradient_method_args"))
    if not method.needs.startswith("losses"):
        raise InputError(
            f"gradient_method is {args.gradient_method!r}: DeepSpeed and FSDP shard the gradients that it has to "
            "compare. Add --gradient_method famo (or uncertainty, or fixed), which look at the losses alone, or use "
            "plain data parallelism: accelerate launch --multi_gpu --num_processes N run_glue_mtl.py ..."
        )
    if args.gradient_method == "famo" and args.gradient_accumulation_steps > 1:
        raise InputError(
            "gradient_method 'famo' weighs by the losses of the whole step, which under DeepSpeed and FSDP are known "
            f"for one micro-batch only; gradient_accumulation_steps is {args.gradient_accumulation_steps}, wanted 1"
        )
    if args.unfreeze_schedule != "none":
        raise InputError(
            f"unfreeze_schedule is {args.unfreeze_schedule!r}: DeepSpeed and FSDP lay out their shards for the "
            "parameters that train at the start; add --unfreeze_schedule none"
        )
    if rates_by_depth(args):
        raise InputError(
            f"{levers_in_words(args)}: DeepSpeed and FSDP make groups of parameters of their own; leave it out there"
        )
    if args.ema_decay:
        raise InputError(
            f"ema_decay is {args.ema_decay:g}: under DeepSpeed and FSDP no process has all weights to average; leave "
            "it out there"
        )
    if args.soup:
        raise InputError(
            f"soup is {args.soup}: under DeepSpeed and FSDP no process has the whole model; leave it out there"
        )
    if args.push_to_hub and args.hub_strategy == HubStrategy.CHECKPOINT:
        raise InputError(
            "hub_strategy is 'checkpoint', wanted 'end' or 'every_save': DeepSpeed and FSDP save what training goes on "
            "from in shards, which stay on this machine"
        )
    plugin, gather = args.deepspeed_plugin, "stage3_gather_16bit_weights_on_model_save"
    if (
        plugin is not None
        and plugin.zero_stage == 3
        and not plugin.hf_ds_config.get_value(f"zero_optimization.{gather}")
    ):
        raise InputError(
            f"DeepSpeed's {gather} is off, without which the trained model could not be saved; set it to true under "
            "zero_optimization, or zero3_save_16bit_model in accelerate's configuration"
        )
