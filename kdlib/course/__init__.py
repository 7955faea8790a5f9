"""What lessons and homework need, and nobody else: pictures, widgets, the museum, exercises, the grader."""
