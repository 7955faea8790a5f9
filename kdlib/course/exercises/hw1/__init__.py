"""Homework 1, soft targets: seven exercises."""

from kdlib.course.exercises.hw1.choose_temperature import choose_temperature
from kdlib.course.exercises.hw1.hinton_loss import hinton_loss
from kdlib.course.exercises.hw1.logit_matching_loss import logit_matching_loss
from kdlib.course.exercises.hw1.my_temperature import my_temperature
from kdlib.course.exercises.hw1.soft_target_gradient import soft_target_gradient
from kdlib.course.exercises.hw1.soft_target_loss import soft_target_loss
from kdlib.course.exercises.hw1.soften import soften

EXERCISES = (
    soften,
    soft_target_loss,
    hinton_loss,
    soft_target_gradient,
    logit_matching_loss,
    choose_temperature,
    my_temperature,
)
