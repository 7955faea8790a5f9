"""Bugs seen in real distillation code, and the test that a reader writes of one."""
