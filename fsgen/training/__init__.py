"""The loops: adapt and train, fisher, sample. Families and methods plug in here and nowhere else."""
