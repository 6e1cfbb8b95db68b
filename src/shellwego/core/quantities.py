"""How do people write amounts, and what do they mean?

Memory and disk are written `256m`, `1g`, `512MiB` (all binary, as in Docker) or plain bytes; CPU is a number of
cores, `0.5`, or thousandths, `500m`. Inside, memory is MiB and CPU is millicores, both whole numbers, so that
sums are exact.
"""

from __future__ import annotations

import re
from decimal import Decimal

from shellwego.core.errors import InvalidField

_SIZE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_CPU = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(m?)")
MIB = 1 << 20


def parse_size_mib(text: str | int, *, field: str, minimum_mib: int = 1, maximum_mib: int = 1 << 24) -> int:
    """Whole MiB, rounded up, of `256m`, `1.5g`, `512MiB` or plain bytes. Raises InvalidField naming `field`."""
    match = _SIZE.fullmatch(str(text).strip())
    if match is None:
        raise InvalidField(field, f"{text!r} is not a size. Write it like 256m or 1g.")
    size = Decimal(match[1]) * (1 << _UNITS[match[2].lower()])
    mib = int(-(-size // MIB))
    if not minimum_mib <= mib <= maximum_mib:
        raise InvalidField(
            field,
            f"{text!r} is out of range: {format_mib(minimum_mib)} to {format_mib(maximum_mib)}.",
        )
    return mib


def parse_cpu_millis(text: str | float, *, field: str, minimum: int = 10, maximum: int = 512_000) -> int:
    """Millicores of `0.5`, `2` or `500m`. Raises InvalidField naming `field`."""
    match = _CPU.fullmatch(str(text).strip())
    if match is None:
        raise InvalidField(field, f"{text!r} is not a number of cores. Write it like 0.5 or 500m.")
    millis = int(Decimal(match[1]) * (1 if match[2] else 1000))
    if not minimum <= millis <= maximum:
        raise InvalidField(field, f"{text!r} is out of range: {minimum}m to {maximum // 1000} cores.")
    return millis


def format_mib(mib: int) -> str:
    """`256m`, `1g`: what `parse_size_mib` reads back to the same number."""
    return f"{mib // 1024}g" if mib and mib % 1024 == 0 else f"{mib}m"


def format_cpu(millis: int) -> str:
    """`0.5`, `2`: what `parse_cpu_millis` reads back to the same number."""
    return f"{Decimal(millis) / 1000:f}".rstrip("0").rstrip(".") if millis % 1000 else str(millis // 1000)
