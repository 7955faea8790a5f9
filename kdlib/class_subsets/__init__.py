"""Networks that know some classes only: a class never seen (``omitted``), and specialists."""
