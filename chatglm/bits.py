"""Which bit widths a weight can be quantised to. Imports nothing, so that flags are checked before PyTorch is there."""

BITS = (4, 8)


def check_bits(bits: int, name: str = "quantization_bit") -> None:
    """Refuse bit widths other than 4 and 8.

    Raises:
        ValueError: another width, under the name that it was given by.
    """
    if bits not in BITS:
        raise ValueError(f"{name} must be {' or '.join(map(str, BITS))}, got {bits}")
