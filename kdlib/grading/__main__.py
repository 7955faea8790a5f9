"""``python -m kdlib.grading matrix``: is the grader right about every answer it knows?"""

import sys

from kdlib.grading import HOMEWORKS
from kdlib.grading.matrix import show

if __name__ == "__main__":
    sys.exit(bool(show(HOMEWORKS)))
