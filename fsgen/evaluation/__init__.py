"""Evaluation of models and image sets by one protocol, with one report."""
