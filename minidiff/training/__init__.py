"""Training runs: config and recipes, the trainer, the run's folder, checkpoints and sampling."""

from minidiff.training.config import TrainConfig, read, recipes
from minidiff.training.run import Run
from minidiff.training.sampling import draw, label_plan, load_model
from minidiff.training.trainer import Record, Trainer, train

__all__ = [
    "TrainConfig",
    "read",
    "recipes",
    "Run",
    "Trainer",
    "Record",
    "train",
    "load_model",
    "label_plan",
    "draw",
]
