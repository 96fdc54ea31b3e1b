"""What the parameters of an encoder may be held in; `ivt_jax/model/precision.py` holds them so."""

DTYPES = ("float32", "bfloat16", "int8", "int8_dynamic")
