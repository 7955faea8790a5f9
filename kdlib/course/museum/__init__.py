"""Bugs seen in real distillation code, and the tests that readers write to catch them."""
