"""Homework 2, exercise 7: the student's own teacher."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from torch.nn import functional as F

from kdlib.course.exercises.claims import is_number
from kdlib.course.exercises.layers import feature_maps, flow
from kdlib.course.grading.exercise import Ask, Draw, Exercise

my_flow_distance = Exercise(
    "my_flow_distance",
    "my_flow_distance is the FSP loss between your own teacher and a network that has learned nothing.",
    minutes=10,
    personal=True,
)


@my_flow_distance.holds(
    "It is the FSP loss of both pairs of layers, over your 20 images, to 1 %", 2
)
def is_the_fsp_loss_of_both_pairs(ask: Ask, draw: Draw) -> None:
    found = ask()
    found.should(is_number(found.value), "a number")
    wanted = flow_distance(draw.student)
    close = math.isclose(float(found.value), wanted, rel_tol=0.01)
    found.should(
        close,
        "the sum of both pairs' squared distances between FSP matrices, averaged over the images",
    )


def flow_distance(student: str, matrix: Callable = flow) -> float:
    """The distance from the definition; another ``matrix`` makes it a known mistake."""
    return float(sum((gap**2).sum((1, 2)) for gap in _gaps(student, matrix)).mean())


def _gaps(student: str, matrix: Callable = flow) -> list[np.ndarray]:
    teacher, new = feature_maps(student)
    return [
        (matrix(new[k], new[k + 1]) - matrix(teacher[k], teacher[k + 1])).numpy() for k in (0, 1)
    ]


@my_flow_distance.hint(
    "Your maps are pooled, but not by their largest numbers.",
    "The first layer's maps are twice as large as the second's. How does the paper shrink them?",
    "Max-pool them: does your fsp_matrix pass its check?",
)
def averages_pooled(student):
    def matrix(first, second):
        a, b = F.adaptive_avg_pool2d(first, second.shape[2:]).flatten(2), second.flatten(2)
        return a @ b.mT / b.shape[2]

    return flow_distance(student, matrix)


@my_flow_distance.hint(
    "Your number is 49² = 2401 times too large.",
    "Maps of 7 × 7 have 49 places. Where does the formula divide by them?",
    "Divide each matrix by its number of places, 49.",
)
def places_not_divided_by(student):
    return flow_distance(student) * 49**2


@my_flow_distance.hint(
    "Your distances are not squared.",
    "A norm is a square root; an absolute value is the root of one square.",
    "Add up squared differences.",
)
def distances_not_squared(student):
    norms = [np.sqrt((gap**2).sum((1, 2))) for gap in _gaps(student)]
    return float(sum(norms).mean())


@my_flow_distance.hint(
    "Your number is half as large as it should be.",
    "How many pairs of layers are there? And is there a half in the FSP loss?",
    "Add up both pairs; divide only by the number of images.",
)
def mean_of_both_pairs(student):
    return flow_distance(student) / 2


@my_flow_distance.hint(
    "Your number is 20 times too large.",
    "20 is the number of your images.",
    "Take the mean over the images.",
)
def images_added_up(student):
    return flow_distance(student) * 20


@my_flow_distance.hint(
    "Only the first pair of layers is in your number.",
    "Three layers make two pairs: from the first to the second, from the second to the third.",
    "Add the distance of the second pair.",
)
def first_pair_alone(student):
    return float((_gaps(student)[0] ** 2).sum((1, 2)).mean())


@my_flow_distance.hint(
    "Only the second pair of layers is in your number.",
    "What happened to the flow from the first layer to the second?",
    "Add the distance of the first pair.",
)
def second_pair_alone(student):
    return float((_gaps(student)[1] ** 2).sum((1, 2)).mean())


@my_flow_distance.hint(
    "You took the mean over the entries of each matrix.",
    "F.mse_loss takes a mean over everything there is.",
    "Sum over rows and columns, take the mean over the images.",
)
def mean_of_the_entries(student):
    return float(sum((gap**2).mean() for gap in _gaps(student)))


@my_flow_distance.hint(
    "You averaged the matrices over the images before you compared them.",
    "In a mean of matrices, errors of two images may cancel: image by image the gap is larger.",
    "Take the distance for each image, then the mean.",
)
def distance_of_mean_flows(student):
    return float(sum((gap.mean(0) ** 2).sum() for gap in _gaps(student)))


@my_flow_distance.hint(
    "That is the distance between the features, not between the flows.",
    "A hint compares what two layers output, a flow how one gets from one layer to the next.",
    "Make FSP matrices of neighbouring layers first.",
)
def hints_instead_of_flows(student):
    teacher, new = feature_maps(student)
    pairs = zip(teacher, new, strict=True)
    return float(sum((a - b).square().sum((1, 2, 3)).mean() / 2 for a, b in pairs))


@my_flow_distance.answer
def from_the_definition(student):
    return flow_distance(student)
