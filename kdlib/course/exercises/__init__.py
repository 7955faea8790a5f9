"""The homework's exercises: what each asks, how an answer is judged, and known answers."""

from kdlib.course.exercises import hw1, hw2, hw3

HOMEWORKS = {"hw1": hw1.EXERCISES, "hw2": hw2.EXERCISES, "hw3": hw3.EXERCISES}
