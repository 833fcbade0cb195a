"""Prometheus' text format, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import math
from collections.abc import Collection, Iterable, Iterator

from satrap.serving.metrics.families import Distribution, Family, Labels, Number, sample_names

__all__ = ["number", "text"]


def text(families: Iterable[Family[Number] | Family[Distribution]], names: Collection[str] = ()) -> bytes:
    """The families as text; of `names`, if there are any, those that have a line of such a name."""
    wanted = frozenset(names)
    lines: list[str] = []
    for family in families:
        if not wanted or not wanted.isdisjoint(sample_names(family)):
            lines += _lines(family)
    return "".join(f"{line}\n" for line in lines).encode()


def number(value: float) -> str:
    """As Prometheus writes a float."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(float(value))


def _lines(family: Family[Number] | Family[Distribution]) -> Iterator[str]:
    described = family.help_text.replace("\\", "\\\\").replace("\n", "\\n")
    yield f"# HELP {family.name} {described}"
    yield f"# TYPE {family.name} {family.kind}"
    for labels, value in family.items():
        if isinstance(value, Number):
            yield f"{family.name}{_braces(labels)} {number(value.value)}"
            continue
        for bound, count in value.buckets():
            yield f"{family.name}_bucket{_braces((*labels, ('le', number(bound))))} {number(count)}"
        yield f"{family.name}_count{_braces(labels)} {number(value.count)}"
        yield f"{family.name}_sum{_braces(labels)} {number(value.sum)}"


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{pairs}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
