"""Homework 3, born again: seven exercises."""

from kdlib.course.exercises.hw3.cwtm_loss import cwtm_loss
from kdlib.course.exercises.hw3.ensemble import ensemble
from kdlib.course.exercises.hw3.generations import generations
from kdlib.course.exercises.hw3.interval import interval
from kdlib.course.exercises.hw3.my_gain import my_gain
from kdlib.course.exercises.hw3.permute_dark_knowledge import permute_dark_knowledge
from kdlib.course.exercises.hw3.verdict import verdict

EXERCISES = (
    generations,
    ensemble,
    cwtm_loss,
    permute_dark_knowledge,
    interval,
    verdict,
    my_gain,
)
