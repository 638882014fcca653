"""Figures: what wrk printed, medians of rounds, ratios, and tables of them in RESULTS.md."""

import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


class Figure(NamedTuple):
    """One measurement under load: successful requests a second and the median latency."""

    rate: float
    p50_ms: float


def parse_wrk(output: str) -> Figure:
    """The figure in what `wrk --latency` printed; requests that were refused or lost are not successful."""
    total = re.search(r"(\d+) requests in", output)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    half = re.search(r"50%\s+([\d.]+)(us|ms|s|m)\b", output)
    if not (total and rate and half):
        raise ValueError(f"this is not what wrk prints with --latency:\n{output}")
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    share = 1 - int(refused[1]) / int(total[1]) if refused and int(total[1]) else 1.0
    return Figure(float(rate[1]) * share, float(half[1]) * _MILLISECONDS[half[2]])


def median(runs: Iterable[Figure]) -> Figure:
    """The medians of several rounds, each taken alone."""
    rates, latencies = zip(*runs, strict=True)
    return Figure(statistics.median(rates), statistics.median(latencies))


def combined(*rates: float) -> float:
    """The rate of several kinds of work that share the same cores and cost nothing else."""
    return 1 / sum(1 / rate for rate in rates)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed; not a number when there are none."""
    if not values:
        return float("nan")
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def described(runs: Sequence[Figure]) -> str:
    """The median of some rounds, with the slowest and the fastest."""
    rates = [figure.rate for figure in runs]
    found = median(runs)
    return f"{found.rate:.1f}/s ({min(rates):.1f} to {max(rates):.1f}), {found.p50_ms:.1f} ms"


def ratio(mine: Figure, other: Figure) -> str:
    """How many times the other's rate, and in brackets its median latency."""
    return f"{mine.rate / other.rate:.2f} ({mine.p50_ms / other.p50_ms:.2f})"


def put_section(text: str, title: str, body: str) -> str:
    """The text with the section `### title` made or replaced, inside `## Serving`."""
    sections = re.split(r"(?m)^(?=#{2,3} )", text)
    new = f"### {title}\n\n{body.strip()}\n\n"
    for index, section in enumerate(sections):
        if section.startswith(f"### {title}\n"):
            sections[index] = new
            break
    else:
        heading = next((index for index, section in enumerate(sections) if section.startswith("## Serving\n")), None)
        if heading is None:
            raise ValueError("RESULTS.md has no section `## Serving` to write into")
        after = heading + 1
        while after < len(sections) and sections[after].startswith("### "):
            after += 1
        sections.insert(after, new)
    return "".join(sections).rstrip() + "\n"


def record(title: str, body: str) -> None:
    """Print a result and write it into RESULTS.md."""
    print(f"\n### {title}\n\n{body}\n", flush=True)
    RESULTS.write_text(put_section(RESULTS.read_text(encoding="utf-8"), title, body), encoding="utf-8")
