"""Trained models from Python: `umt_ds.load` and what it gives. README.md beside this file shows it."""

from umt_ds.api.model import VideoModel, WindowEmbeddings
from umt_ds.api.opening import load
from umt_ds.api.videos import Frame, Video
from umt_ds.evaluation.prediction import Choice, Prediction

__all__ = ["Choice", "Frame", "Prediction", "Video", "VideoModel", "WindowEmbeddings", "load"]
