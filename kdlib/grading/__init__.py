"""Self-checks that explain, for the homework and the bug museum.

``kd.grading.check_soft_target_loss(my_function)`` says which property fails, with which input, what
came and what was expected, and names the mistake where it is a known one. The same exercises, with
hidden cases, grade what is handed in: see ``notebooks/homework/TEACHING.md``.
"""

from kdlib.grading import hw1, hw2, hw3
from kdlib.grading._generations import paired_runs
from kdlib.grading._layers import feature_maps
from kdlib.grading._material import teacher_logits
from kdlib.grading.museum import catalogue, check_test, wrong_code

HOMEWORKS = {"hw1": hw1.EXERCISES, "hw2": hw2.EXERCISES, "hw3": hw3.EXERCISES}

check_soften = hw1.soften.check
check_soft_target_loss = hw1.soft_target_loss.check
check_hinton_loss = hw1.hinton_loss.check
check_soft_target_gradient = hw1.soft_target_gradient.check
check_logit_matching_loss = hw1.logit_matching_loss.check
check_choose_temperature = hw1.choose_temperature.check
check_my_temperature = hw1.my_temperature.check

check_hint_loss = hw2.hint_loss.check
check_hint_step = hw2.hint_step.check
check_fsp_matrix = hw2.fsp_matrix.check
check_fsp_loss = hw2.fsp_loss.check
check_two_stages = hw2.two_stages.check
check_same_flow = hw2.same_flow.check
check_my_flow_distance = hw2.my_flow_distance.check

check_generations = hw3.generations.check
check_ensemble = hw3.ensemble.check
check_cwtm_loss = hw3.cwtm_loss.check
check_permute_dark_knowledge = hw3.permute_dark_knowledge.check
check_interval = hw3.interval.check
check_verdict = hw3.verdict.check
check_my_gain = hw3.my_gain.check

__all__ = [
    "HOMEWORKS",
    "catalogue",
    "check_choose_temperature",
    "check_cwtm_loss",
    "check_ensemble",
    "check_fsp_loss",
    "check_fsp_matrix",
    "check_generations",
    "check_hint_loss",
    "check_hint_step",
    "check_hinton_loss",
    "check_interval",
    "check_logit_matching_loss",
    "check_my_flow_distance",
    "check_my_gain",
    "check_my_temperature",
    "check_permute_dark_knowledge",
    "check_same_flow",
    "check_soft_target_gradient",
    "check_soft_target_loss",
    "check_soften",
    "check_test",
    "check_two_stages",
    "check_verdict",
    "feature_maps",
    "paired_runs",
    "teacher_logits",
    "wrong_code",
]
