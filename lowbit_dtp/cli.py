"""The command `lowbit-dtp`, with the subcommands in `commands`."""

import sys
import warnings
from pathlib import Path
from typing import Annotated, NoReturn, TextIO

import typer

from .commands import (
    bench,
    compare,
    data,
    estimate,
    evaluate,
    export,
    import_,
    machines,
    price,
    qtools,
    report,
    reproduce,
    results,
    rules,
    search,
    sweep,
    technology,
    train,
    verify,
)  # fmt: skip
from .version import __version__

INTERRUPTED = 130
"""Exit status of Typer after Ctrl-C."""

app = typer.Typer(
    name="lowbit-dtp",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command; a user's error gives one line on standard error and exit status 2, not a traceback."""
    warnings.showwarning = _warn
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        fail(str(error))
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("stopped; the same command continues from the last checkpoint", file=sys.stderr)
        raise


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning of ours as one line, without the place in the code."""
    if category is UserWarning:
        print(f"lowbit-dtp: warning: {message}", file=sys.stderr)
    else:
        _show_warning(message, category, filename, lineno, file, line)


_show_warning = warnings.showwarning


def fail(message: str) -> NoReturn:
    """End with `message` on standard error."""
    print(f"lowbit-dtp: {message}", file=sys.stderr)
    sys.exit(2)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    plugin: Annotated[
        list[Path] | None,
        typer.Option("--plugin", help="Python file with rules, formats or data sets of your own. Repeatable."),
    ] = None,
) -> None:
    """Train networks whose forward and feedback signals are binary or few-bit, and measure their cost.

    Counts every bit on every link, prices the counts in joules, and exports the network as fixed point.

    [bold]Examples[/bold]

      lowbit-dtp compare --data digits

      lowbit-dtp compare --data mnist --rules dtp,straight-through,fixed-lower --epochs 5 --seeds 1 --out runs/mnist

      lowbit-dtp compare --data mnist --epochs 500 --seeds 10 --device cuda --out runs/thesis

      lowbit-dtp price runs/mnist --placement h1-h2=board

      lowbit-dtp export runs/mnist --rule dtp --target c --weights 'fixed<8,1>' --verify
    """
    if version:
        print(f"lowbit-dtp {__version__}")
        raise typer.Exit()
    from .plugins import load

    load(plugin or [])


for command in (
    compare.compare, train.train, evaluate.evaluate, price.price, estimate.estimate, sweep.sweep, search.search,
    export.export, verify.verify, bench.bench, reproduce.reproduce, report.report, rules.rules, technology.technology,
    machines.machines, qtools.qtools,
):  # fmt: skip
    app.command()(command)
app.command("import")(import_.import_)
app.add_typer(data.app, name="data")
app.add_typer(results.app, name="results")

if __name__ == "__main__":
    main()
