"""Every option of the library once: its name, type, default, range and help. Needs no torch."""

from .base import Option, configuration, fingerprint, from_json, from_value, option, options, to_json
from .commands import Demo, Networks, Orbit, Predict, Reconstruct, Sampler, Surface
from .distill import PRESETS, DistillConfig, DraftSchedule, FastSchedule, ReferenceSchedule
from .evaluation import EVALUATION_STAGES, EvaluationConfig, EvaluationStage
from .field import Backend, FieldConfig, FitConfig, GridConfig, RaySampling
from .models import MAX_LAYERS, MODEL_ID, DiffusionConfig, DinoConfig, ModelConfig, TextConfig, UpSRTConfig, VaeConfig
from .photos import MAX_PHOTOS, PhotoSearch
from .training import STAGES, Stage, TrainConfig, mini_model
