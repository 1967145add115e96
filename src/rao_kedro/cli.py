"""`kedro run` with options more, and a console of its own; all other commands are Kedro's."""

from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.utils import find_kedro_project

from rao_kedro.framework.console import run_console
from rao_kedro.framework.session import DRY_RUN, ONLY_STALE_OUTPUTS

HELP = """Run only nodes whose outputs are missing or were made from something else than what is there now (inputs,
files, parameters), and what depends on them; says why, node by node."""
DRY_RUN_HELP = """Only check the plan and print it: nodes, rows, tokens, steps, memory, disk and time, as far as they
can be known. Only a log is written."""
VERBOSE = """Show all that is logged, tracebacks included, and leave stderr and debuggers alone."""


@click.group(name="kedro")
def cli() -> None:
    """Hold the commands of this project."""


def _run(**options: Any) -> Any:
    for name in (ONLY_STALE_OUTPUTS, DRY_RUN):  # the session finds them in the command line that Kedro stores
        del options[name]
    assert kedro_run.callback is not None
    project = find_kedro_project(Path.cwd()) or Path.cwd()
    with run_console(project, options.pop("verbose")):
        return kedro_run.callback(**options)


run = click.Command(
    "run",
    params=[
        *kedro_run.params,
        click.Option(["--only-stale-outputs"], is_flag=True, help=HELP),
        click.Option(["--dry-run"], is_flag=True, help=DRY_RUN_HELP),
        click.Option(["--verbose", "-v"], is_flag=True, help=VERBOSE),
    ],
    callback=_run,
    help=kedro_run.help,
)
cli.add_command(run)
