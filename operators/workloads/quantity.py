"""Kubernetes resource quantities as integers (grammar: apimachinery `pkg/api/resource`, Quantity)."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

from controlplane.model.errors import InvalidSpec

_SUFFIX: dict[str, Decimal] = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}

_MAX_LENGTH = 64


@lru_cache(maxsize=4096)
def milli(text: str | int | float) -> int:
    """A quantity in thousandths, rounded up as the API server rounds. Raises InvalidSpec when it is no quantity."""
    source = str(text).strip()
    number, factor = source, Decimal(1)
    for length in (2, 1):
        scale = _SUFFIX.get(source[-length:]) if len(source) > length else None
        if scale is not None:
            number, factor = source[:-length], scale
            break
    try:
        value = Decimal(number) * factor * 1000 if len(source) <= _MAX_LENGTH else None
    except ArithmeticError:
        value = None
    if value is None or not value.is_finite() or value.adjusted() > _MAX_LENGTH:
        raise InvalidSpec(
            "not a resource quantity",
            value=source[:_MAX_LENGTH],
            limit="a number with an optional suffix n u m k M G T P E Ki Mi Gi Ti Pi Ei",
        )
    return int(value.to_integral_value(rounding=ROUND_CEILING))


def whole(text: str | int | float) -> int:
    """A quantity in whole units, rounded down: half a device is no device. Raises InvalidSpec."""
    return milli(text) // 1000
