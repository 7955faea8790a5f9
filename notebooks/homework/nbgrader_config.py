"""nbgrader's settings for this course; TEACHING.md explains them, and how to set deadlines.

Student code runs in processes of its own.
"""

from nbgrader.converters import Autograde
from nbgrader.preprocessors import Execute

from kdlib.course.grading.course import Repair, Score

c = get_config()  # noqa: F821  provided by nbgrader
c.CourseDirectory.course_id = "kdlib"

usual = Autograde()
c.Autograde.sanitize_preprocessors = [Repair, *usual.sanitize_preprocessors]
c.Autograde.autograde_preprocessors = [
    Score if step is Execute else step for step in usual.autograde_preprocessors
]
