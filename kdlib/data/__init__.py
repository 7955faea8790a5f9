"""Data sets that live on the device: found, downloaded, or one's own; ``kdlib.data.text`` has texts."""

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
