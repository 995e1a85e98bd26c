"""`python -m anatomy validate [runs.toml]`: published runs, of training or of serving, against the cost models."""

import argparse
import sys
from collections.abc import Sequence

from anatomy.validate import compare, mean_error, read
from anatomy.validate.published import Row


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if all rows could be used, 1 if some were refused, 2 if none could."""
    parser = argparse.ArgumentParser(prog="python -m anatomy", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    validate = commands.add_parser("validate", help="hold the cost model against published runs")
    validate.add_argument(
        "runs",
        nargs="?",
        help="a TOML file of your own, or one of the library's: `runs` of training, the default, and `serving`, at "
        "whose tops the schemas stand; `further` and `serving_further`, which it met after its models were made",
    )
    options = parser.parse_args(arguments)
    try:
        runs, refused = read(options.runs)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(report(compare(runs))))
    for row in refused:
        print(f"refused: {row.name}: {row.reason}", file=sys.stderr)
    return 2 if not runs else int(bool(refused))


def report(rows: list[Row]) -> list[str]:
    """A line for each row, then the averages: fitted and not, and of memory."""
    width = max((len(row.run.name) for row in rows), default=3)
    lines = [f"{'run':<{width}} {'measure':<22} {'published':>10} {'predicted':>10} {'error':>8}  fitted"]
    for row in rows:
        numbers = f"{row.published:>10.4g} {row.predicted:>10.4g} {row.error:>+8.1%}"
        remark = "yes" if row.run.fitted else f"no; constants of {row.run.generation}" if row.run.borrowed else ""
        lines.append(f"{row.run.name:<{width}} {row.measure:<22} {numbers}  {remark}".rstrip())
    groups = {
        "fitted": [row for row in rows if row.run.fitted and row.measure != "memory"],
        "not fitted": [row for row in rows if not row.run.fitted and row.measure != "memory"],
        "memory": [row for row in rows if row.measure == "memory"],
    }
    lines += [f"mean absolute error, {title:<12} {mean_error(group):.1%}" for title, group in groups.items() if group]
    return lines


if __name__ == "__main__":
    sys.exit(main())
