"""Shared layers, losses and the Fisher estimator, independent of families and methods."""
