"""Maps of a network in, out: whether they hang on what was learned, on what is asked, and on nothing else."""
