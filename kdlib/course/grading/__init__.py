"""Self-checks that explain, for the homework and the bug museum.

``kd.grading.check_soft_target_loss(my_function)`` reports which property fails, on which input, what the
function gave and what was expected, and gives hints if it knows the mistake. The same exercises, with
hidden cases, grade what students hand in: see ``notebooks/homework/TEACHING.md``.
"""

from importlib import import_module

# Looked up on first use: the exercises import the rest of this package.
_EXERCISES = {
    "hw1": """soften soft_target_loss hinton_loss soft_target_gradient logit_matching_loss
        choose_temperature my_temperature""",
    "hw2": "hint_loss hint_step fsp_matrix fsp_loss two_stages same_flow my_flow_distance",
    "hw3": "generations ensemble cwtm_loss permute_dark_knowledge interval verdict my_gain",
}
_CHECKS = {f"check_{name}": hw for hw, names in _EXERCISES.items() for name in names.split()}
_GIVEN = {
    "HOMEWORKS": "exercises",
    "catalogue": "museum.check",
    "check_test": "museum.check",
    "feature_maps": "exercises.layers",
    "paired_runs": "exercises.generations",
    "teacher_logits": "exercises.material",
    "wrong_code": "museum.check",
}

__all__ = list(_CHECKS | _GIVEN)


def __getattr__(name: str):
    if name in _CHECKS:
        homework = import_module(f"kdlib.course.exercises.{_CHECKS[name]}")
        return getattr(homework, name.removeprefix("check_")).check
    if name in _GIVEN:
        return getattr(import_module(f"kdlib.course.{_GIVEN[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
