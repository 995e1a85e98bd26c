"""Recipes are trained where they are missing: `python -m anatomy.train.recipes [names]`."""

import argparse
import sys
from collections.abc import Sequence

from anatomy.train import recipes
from anatomy.train.recipes import registry
from anatomy.train.recipes.jobs import at_once, one_by_one, with_needed
from anatomy.train.vision import reading

INTERRUPTED = 130  # exit code, as shells give it


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, and say what each recipe cost; 0, or 130 where it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m anatomy.train.recipes", description=main.__doc__)
    parser.add_argument("names", nargs="*", help=f"of recipes, all by default: {', '.join(recipes.RECIPES)}")
    parser.add_argument("--jobs", type=int, default=1, help="processes that train at once, each on one core")
    parser.add_argument("--clean", action="store_true", help="remove all recipes from the cache, and train none")
    options = parser.parse_args(arguments)
    if options.clean:
        if options.names:
            parser.error("--clean removes all recipes; allowed: no names with it")
        print(f"removed {registry.clean() / 1e6:,.0f} MB")
        return 0
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}; allowed: at least 1")
    try:
        names = with_needed(options.names or list(recipes.RECIPES))
    except ValueError as error:
        parser.error(str(error))
    try:
        for name in one_by_one(names, say) if options.jobs == 1 else at_once(names, options.jobs, say):
            say(summary(name))
        if not options.names:
            say(baselines())
    except KeyboardInterrupt as stop:
        print(f"interrupted: {stop or 'what was trained is kept; run it again to go on'}", file=sys.stderr)
        return INTERRUPTED
    say(f"{'in all':<22} {sum(map(recipes.seconds, names)):7.1f} s")
    return 0


def say(line: str) -> None:
    """A line, at once."""
    print(line, flush=True)


def summary(name: str) -> str:
    """What a recipe cost, and what came out."""
    recipe = recipes.known(name)
    texts = ", ".join(f"{domain} {loss:.3f}" for domain, loss in recipes.held_out(name).items())
    rows, what = int(recipe.training.batches().sum()), "rows"
    if name in recipes.VISION:
        read, what = reading.scored(name), "images"
        texts = f"digits {read['digits']:.1%}, rows {read['rows']:.1%}; {texts}"
    return f"{name:<22} {recipes.seconds(name):7.1f} s  {rows:6,} {what}  held out: {texts}"


def baselines() -> str:
    """What stands beside the recipes of vision."""
    found = reading.baselines()
    others = ", ".join(f"{name} {found[name]['digits']:.1%}" for name in ("text_only", "linear"))
    return f"{'beside vision':<22} digits: {others}, linear of digits cut out {found['linear_cut']:.1%}"


if __name__ == "__main__":
    sys.exit(main())
