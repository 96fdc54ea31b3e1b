"""Writes datasets: readers of published layouts, checks at ingest and one TFDS builder."""
