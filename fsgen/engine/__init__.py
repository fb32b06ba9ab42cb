"""The loops: adapt, fisher, sample, evaluate. Families and methods plug in here and nowhere else."""
