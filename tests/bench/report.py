"""What every table of this folder says beside its figures, and how it is written."""

import datetime
import json
import os
import pathlib


def cpu():
    """The processor's model, as far as the system knows it."""
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def machine():
    return {
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.date.today().isoformat(),
    }


def heading(said):
    return f"{said['cpu']}, {said['cores']} cores, {said['date']}"


def markdown(rows):
    """A table whose first row is its heading; columns after the first are figures."""
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, width)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (w + 2) for w in width) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def write_json(path, value):
    if path:
        pathlib.Path(path).write_text(json.dumps(value, indent=2) + "\n")
