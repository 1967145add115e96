"""`kedro run` with three more options and a console of its own; all other commands are Kedro's."""

from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.utils import find_kedro_project

from rao_kedro.framework.console import run_console
from rao_kedro.framework.session import DRY_RUN, ONLY_STALE_OUTPUTS

STALE_HELP = """Run only nodes whose outputs are missing or were made from other inputs, files or parameters than those
of now, and the nodes that depend on them; says why for each node."""
DRY_RUN_HELP = """Check the plan and print it, and run nothing: nodes with their rows, tokens, steps, memory, disk and
time, as far as they are known. Only a log is written."""
VERBOSE_HELP = """Show everything that is logged, with tracebacks, and leave stderr to libraries and debuggers."""


@click.group(name="kedro")
def cli() -> None:
    """Commands of this project."""


def _run(**options: Any) -> Any:
    for name in (ONLY_STALE_OUTPUTS, DRY_RUN):  # the session reads them from the command line that Kedro stores
        del options[name]
    assert kedro_run.callback is not None
    project = find_kedro_project(Path.cwd()) or Path.cwd()
    with run_console(project, options.pop("verbose")):
        return kedro_run.callback(**options)


run = click.Command(
    "run",
    params=[
        *kedro_run.params,
        click.Option(["--only-stale-outputs"], is_flag=True, help=STALE_HELP),
        click.Option(["--dry-run"], is_flag=True, help=DRY_RUN_HELP),
        click.Option(["--verbose", "-v"], is_flag=True, help=VERBOSE_HELP),
    ],
    callback=_run,
    help=kedro_run.help,
)
cli.add_command(run)
