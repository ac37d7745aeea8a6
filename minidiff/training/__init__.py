"""Training runs: config and recipes, the trainer, its processes, the run's folder, sampling."""

from minidiff.training.config import TrainConfig, read, recipes
from minidiff.training.parallel import Communicator, world
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
    "Communicator",
    "world",
    "load_model",
    "label_plan",
    "draw",
]
