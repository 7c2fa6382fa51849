#!/usr/bin/env python3
"""How a step grows with tasks, parameters, rows and processes: `step_cost.py` in one shape after another.

    python benchmarks/scaling.py --write docs/speed.md

For each shape, the stock step and PCGrad on the same batches, in milliseconds, as a ratio, and at the peak of memory.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = str(Path(__file__).parent / "step_cost.py")
SHAPES: dict[str, list[dict[str, Any]]] = {
    "tasks, 64 rows in all": [{"rows": 32}, {"tasks": 4, "rows": 16}, {"tasks": 8, "rows": 8}],
    "parameters": [{"rows": 8}, {"encoder": "mpnet-base", "rows": 8}, {"encoder": "large", "rows": 8, "steps": 1}],
    "rows": [{"rows": 8}, {"rows": 32}, {"rows": 64}],
    "processes, 64 rows in all": [{"rows": 32}, {"rows": 16, "processes": 2}],
}


@functools.cache
def measure(
    encoder: str = "minilm", tasks: int = 2, rows: int = 32, processes: int = 1, blocks: int = 3, steps: int = 2
) -> dict[str, Any]:
    """What `step_cost.py --json` tells of one shape."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), SCRIPT, "--json", "--methods"]
    numbers = {"tasks": tasks, "rows": rows, "blocks": blocks, "steps": steps}
    command += ["--encoder", encoder, *(f"--{name}={value}" for name, value in numbers.items())]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def line(found: dict[str, Any]) -> str:
    """A shape's line of the table."""
    stock, pcgrad = found["methods"]
    memory = ["-" if m["peak_gib"] is None else f"{m['peak_gib']:.2f}" for m in (stock, pcgrad)]
    cells = [f"{1000 * stock['seconds']:.0f}", f"{1000 * pcgrad['seconds']:.0f}", f"{pcgrad['to_stock_step']:.2f}"]
    return f"| {' | '.join([found['shape'], *cells, *memory])} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="replace the tables in this file")
    options = parser.parse_args()
    lines = [
        "| shape | stock step, ms | PCGrad, ms | ratio | stock step, GiB | PCGrad, GiB |",
        "|---" * 6 + "|",
    ]
    for grows, shapes in SHAPES.items():
        lines.append(f"| **{grows}** | | | | | |")
        for shape in shapes:
            lines.append(line(measure(**shape)))
            print(lines[-1], file=sys.stderr)
    text = "\n".join(lines)
    print(text)
    if options.write:
        before, _, rest = options.write.read_text().partition("<!-- scaling -->")
        options.write.write_text(f"{before}<!-- scaling -->\n{text}\n<!-- end -->{rest.partition('<!-- end -->')[2]}")


if __name__ == "__main__":
    main()
