"""A load test in the terminal: how far it is, and its figures with a histogram."""

import math
import sys

from rich.console import Console
from rich.table import Table

from satrap.load_test.report import Report

__all__ = ["print_progress", "print_report"]

_BUSY_GENERATOR = 0.8
_BAR_WIDTH = 40


def print_progress(seconds: float, answered: int, failed: int) -> None:
    """One line on standard error, written over where that is a terminal."""
    line = f"{seconds:5.0f} s  {answered} answered, {failed} failed"
    begin, end = ("\r", " ") if sys.stderr.isatty() else ("", "\n")
    print(f"{begin}{line}", end=end, file=sys.stderr, flush=True)


def print_report(report: Report) -> None:
    """The figures on standard output; a hint if the load generator was busy itself."""
    console = Console()
    if sys.stderr.isatty():
        print(file=sys.stderr)
    table = Table(show_header=False, box=None)
    deviation = (
        "too short for a deviation of the seconds"
        if math.isnan(report.rate_deviation)
        else f"{report.rate_deviation:,.1f} deviation of the seconds"
    )
    table.add_row("requests/s", f"{report.rate_mean:,.1f} mean, {deviation}")
    table.add_row("requests", f"{report.requests - report.failed:,} answered in {report.seconds:.1f} s")
    if report.percentiles:
        marks = "   ".join(f"{name} {value:,.2f}" for name, value in report.percentiles.items())
        table.add_row("latency, ms", marks)
        table.add_row(
            "",
            f"mean {report.latency_mean:,.2f}   min {report.latency_min:,.2f}   max {report.latency_max:,.2f}",
        )
    for error, count in report.errors.items():
        table.add_row("failed", f"{count:,} x {error}")
    console.print(table)
    largest = max((bar.count for bar in report.histogram), default=0)
    for bar in report.histogram:
        width = round(bar.count / largest * _BAR_WIDTH)
        console.print(
            f"{bar.from_ms:10,.2f} - {bar.to_ms:10,.2f} ms  {'#' * width:<{_BAR_WIDTH}}  {bar.count:,}",
            highlight=False,
        )
    if report.generator_cpu > _BUSY_GENERATOR:
        console.print(
            f"the load generator used {report.generator_cpu:.0%} of a core: these figures may be its own limit; run "
            "several at once, or gRPC instead of REST, which costs it less"
        )
