"""Run the benchmarks, all of them or those named, and write what they measured.

Each module has a `measure()` that yields a name and an object with `value` and `unit`, and with `ours` and `peer`
where two things were measured side by side. Results of modules that were not run are kept.
"""

import argparse
import json
import sys
from importlib import import_module

from anatomy.train import recipes
from support.checkout import ROOT

MODULES = ("book", "calculators", "training", "model", "inference", "decoding", "speculation", "vision")
RESULTS = ROOT / "_build" / "bench.json"


def main() -> int:
    """Measure, print, and write after each result, so that an interruption loses little."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(MODULES)}; all by default")
    parser.add_argument("--train", action="store_true", help="first train the recipes that are missing")
    arguments = parser.parse_args()
    if unknown := set(arguments.modules) - set(MODULES):
        print(f"benchmark {', '.join(sorted(unknown))}; allowed: {', '.join(MODULES)}", file=sys.stderr)
        return 2
    if arguments.train:
        for name in recipes.RECIPES:
            recipes.trained(name)
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    for module in arguments.modules or MODULES:
        for name, result in import_module(f"benchmarks.{module}").measure():
            results[name] = result
            print(f"{name:<24} {result['value']:>12.4g} {result['unit']}", flush=True)
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", "utf-8")
    return 0


sys.exit(main())
