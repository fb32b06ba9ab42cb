"""Shared layers, losses and the Fisher estimator. Nothing here knows a family or a method."""
