"""Pretraining: general captions, one an image."""
