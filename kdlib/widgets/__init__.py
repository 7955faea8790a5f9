"""What a reader moves or clicks in a lesson. ipywidgets is loaded when a widget is first shown."""

from kdlib.widgets.prediction import Prediction, predict

__all__ = ["Prediction", "predict"]
