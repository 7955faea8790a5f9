"""The networks of the papers. Every builder takes its sizes and a seed; no layer is lazy.

The same seed gives the same weights, whatever random numbers were drawn before.
"""

from kdlib.models.dense import DenseNet, densenet
from kdlib.models.maxout import Maxout, fitnets_student, fitnets_teacher
from kdlib.models.plain import anNet, anNet_deep, mlp
from kdlib.models.recurrent import LanguageModel, lstm
from kdlib.models.residual import (
    PreactResNet,
    ResNet,
    preact_resnet,
    residual_student,
    resnet,
    resnet_for_transfer,
    share_ends,
    wide_resnet,
)

__all__ = [
    "DenseNet",
    "LanguageModel",
    "Maxout",
    "PreactResNet",
    "ResNet",
    "anNet",
    "anNet_deep",
    "densenet",
    "fitnets_student",
    "fitnets_teacher",
    "lstm",
    "mlp",
    "preact_resnet",
    "residual_student",
    "resnet",
    "resnet_for_transfer",
    "share_ends",
    "wide_resnet",
]
