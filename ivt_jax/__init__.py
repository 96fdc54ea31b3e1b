"""Text-based person retrieval in JAX: find the photo that a sentence describes.

Importing this package imports nothing else, so that data workers and `--help` stay quick.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ivt_jax.inference import load
    from ivt_jax.retrieval.gallery import Gallery

__all__ = ["Gallery", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":
        from ivt_jax.inference import load

        return load
    if name == "Gallery":
        from ivt_jax.retrieval.gallery import Gallery

        return Gallery
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
