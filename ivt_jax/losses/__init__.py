"""Objectives on features: arrays in, scalars out."""
