"""Multi-task fine-tuning of transformer encoders: the Hugging Face Trainer, a head per task, gradient surgery."""

from . import registration as auto
from ._version import __version__
from .data.auto_labels import resolve_tasks
from .data.task_data import load_task_data
from .data.task_shares import register_task_sampling
from .errors import InputError
from .gradients.method import WEIGHTINGS, GradientMethod, make_weighting, register_gradient_method
from .model.configuration import MultiTaskConfig
from .model.heads import Head, HeadSpec
from .model.modeling import MultiTaskModel, MultiTaskOutput
from .model.pipeline import MultiTaskPipeline
from .pretrained import load_model
from .tasks.kinds import TaskKind, register_kind
from .tasks.metric_names import register_metric
from .tasks.spec import TaskSpec
from .tasks.task_file import load_tasks
from .training.arguments import MultiTaskTrainingArguments
from .training.schedule import UnfreezeSchedule
from .training.trainer import MultiTaskTrainer
from .training.unfreezing import GradualUnfreezing

__all__ = [
    "WEIGHTINGS",
    "GradientMethod",
    "GradualUnfreezing",
    "Head",
    "HeadSpec",
    "InputError",
    "MultiTaskConfig",
    "MultiTaskModel",
    "MultiTaskOutput",
    "MultiTaskPipeline",
    "MultiTaskTrainer",
    "MultiTaskTrainingArguments",
    "TaskKind",
    "TaskSpec",
    "UnfreezeSchedule",
    "__version__",
    "auto",
    "load_model",
    "load_task_data",
    "load_tasks",
    "make_weighting",
    "register_gradient_method",
    "register_kind",
    "register_metric",
    "register_task_sampling",
    "resolve_tasks",
]
