"""What a reader moves or clicks in a lesson. anywidget is loaded when an explorer is first used."""

from importlib import import_module

_HOMES = {
    "DistillationExplorer": "distillation",
    "Flipbook": "flipbook",
    "TemperatureExplorer": "temperature",
}

__all__ = ["DistillationExplorer", "Flipbook", "TemperatureExplorer"]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f"kdlib.course.widgets.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'kdlib.course.widgets' has no attribute {name!r}")
