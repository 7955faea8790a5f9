"""Homework 2, inside the network: seven exercises."""

from kdlib.course.exercises.hw2.fsp_loss import fsp_loss
from kdlib.course.exercises.hw2.fsp_matrix import fsp_matrix
from kdlib.course.exercises.hw2.hint_loss import hint_loss
from kdlib.course.exercises.hw2.hint_step import hint_step
from kdlib.course.exercises.hw2.my_flow_distance import my_flow_distance
from kdlib.course.exercises.hw2.same_flow import same_flow
from kdlib.course.exercises.hw2.two_stages import two_stages

EXERCISES = (
    hint_loss,
    hint_step,
    fsp_matrix,
    fsp_loss,
    two_stages,
    same_flow,
    my_flow_distance,
)
