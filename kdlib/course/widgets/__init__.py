"""What a reader moves or clicks in a lesson. anywidget is loaded when an explorer is first used."""

from importlib import import_module

from kdlib.course.predict import Prediction, predict

_HOMES = {
    "DistillationExplorer": "distillation",
    "Flipbook": "flipbook",
    "TemperatureExplorer": "temperature",
}

__all__ = ["DistillationExplorer", "Flipbook", "Prediction", "TemperatureExplorer", "predict"]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f"kdlib.course.widgets.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'kdlib.course.widgets' has no attribute {name!r}")
