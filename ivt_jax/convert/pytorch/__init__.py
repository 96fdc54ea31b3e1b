"""The files that an exported folder carries: they import PyTorch and never this package."""
