"""Records become batches: images and captions in, uint8 views and token ids out; no JAX."""
