"""Where results are kept: bench/runs/<date>-<machine>/, one JSON object a line."""

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "bench" / "runs"
LOAD = round(os.getloadavg()[0], 2)  # before anything was measured


def processor():
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def machine():
    """A folder name for this machine: its processor and how many cores there are."""
    name = re.sub(r"\(.*?\)|@.*|\bcpu\b|\bprocessor\b", " ", processor().lower())
    return f"{re.sub(r'[^a-z0-9]+', '-', name).strip('-')}-{os.cpu_count()}c"


def commit():
    result = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or "unknown"


def warn_if_busy():
    """Say so when other programs are running: times are then worth little, ratios of programs too."""
    if LOAD > 0.5:
        print(
            f"warning: load average {LOAD}; other programs are running. Threads that wait for each other by spinning, "
            "as llama.cpp's do, lose more by it than others, so ratios are not fair either.",
            file=sys.stderr,
        )


def keep(name, record):
    """Append a record to <name>.jsonl of today's folder; the path."""
    now = datetime.datetime.now(datetime.UTC)
    folder = RUNS / f"{now:%Y-%m-%d}-{machine()}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    header = {
        "time": now.isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "load": LOAD,
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**header, **record}) + "\n")
    return path.relative_to(ROOT)


def table(columns, rows):
    """A Markdown table; numbers to the right."""
    cells = [columns, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    right = [
        all(not isinstance(row[i], str) or row[i][:1].isdigit() for row in rows) for i in range(len(columns))
    ]

    def line(row):
        return (
            "| " + " | ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right)) + " |"
        )

    rule = "| " + " | ".join("-" * (w - 1) + (":" if r else "-") for w, r in zip(widths, right)) + " |"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])
