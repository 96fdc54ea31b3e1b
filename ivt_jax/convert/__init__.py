"""Weights in and out: tables of names, read both ways."""
