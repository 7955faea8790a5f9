"""Students that never saw some of the classes (``omitted``), and ``specialists`` for a few."""
