"""Makes transformers know the package: `AutoConfig`, `AutoModel` and `pipeline` find it once it is imported.

Not part of the code that travels with a model, which transformers registers by the names in config.json.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from .model.configuration import MultiTaskConfig
from .model.export_code import PIPELINE_TASK
from .model.modeling import MultiTaskModel
from .model.pipeline import MultiTaskPipeline

AutoConfig.register("hf_mtl", MultiTaskConfig)
AutoModel.register(MultiTaskConfig, MultiTaskModel)
PIPELINE_REGISTRY.register_pipeline(PIPELINE_TASK, MultiTaskPipeline, pt_model=AutoModel, type="text")
