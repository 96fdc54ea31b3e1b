"""The network and its masking: arrays in, arrays out."""
