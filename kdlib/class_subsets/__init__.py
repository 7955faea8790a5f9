"""Networks that know only some classes: a class was never seen (``omitted``), or specialists."""
