"""Every option of the library once: its name, type, default, range and help. Needs no torch."""

from .base import configuration, from_value, to_dict
from .field import (
    PRESETS,
    Backend,
    DistillConfig,
    DraftSchedule,
    FastSchedule,
    FieldConfig,
    FitConfig,
    GridConfig,
    PhotoSearch,
    RaySampling,
    ReferenceSchedule,
)
from .models import (
    MAX_LAYERS,
    MAX_PHOTOS,
    MODEL_ID,
    DiffusionConfig,
    DinoConfig,
    ModelConfig,
    TextConfig,
    UpSRTConfig,
    VaeConfig,
    mini_model,
)
from .options import EVALUATION_STAGES, EvaluationConfig, EvaluationStage
from .training import STAGES, TRAIN_PRESETS, Stage, TrainConfig
