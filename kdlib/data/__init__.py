"""Data sets on the device: the course's own, and yours; texts are in ``kdlib.data.text``."""

from kdlib.data.load import load
from kdlib.data.own import from_arrays, from_dataset, from_folder
from kdlib.data.splits import Data, Samples, Split
from kdlib.data.views import Augmentation, crop, flip, shift

__all__ = [
    "Augmentation",
    "Data",
    "Samples",
    "Split",
    "crop",
    "flip",
    "from_arrays",
    "from_dataset",
    "from_folder",
    "load",
    "shift",
]
