"""Every option of the library once: its name, type, default, range and help. Needs no torch."""

# isort: off

from .base import configuration, from_value, options_of, to_dict
from .field import PRESETS, Backend, DistillConfig, DraftSchedule, FastSchedule, FieldConfig, FitConfig, GridConfig
from .field import PhotoSearch, RaySampling, ReferenceSchedule
from .models import MAX_LAYERS, MAX_PHOTOS, MODEL_ID, DiffusionConfig, DinoConfig, ModelConfig, TextConfig, UpSRTConfig
from .models import STAGES, TRAIN_PRESETS, Stage, TrainConfig, VaeConfig, mini_model
from .options import EVALUATION_STAGES, Demo, EvaluationConfig, EvaluationStage, Networks, Orbit, Predict, Reconstruct
from .options import Sampler, Surface
