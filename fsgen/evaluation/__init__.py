"""Measuring what generators make: one protocol, one report for all."""
