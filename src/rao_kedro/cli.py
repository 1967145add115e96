"""`kedro run` with one option more; all other commands are Kedro's."""

from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run

from rao_kedro.session import ONLY_STALE_OUTPUTS

HELP = """Run only nodes whose outputs are missing or were made from something else than what is there now (inputs,
files, parameters), and what depends on them; says why, node by node."""


@click.group(name="kedro")
def cli() -> None:
    """Hold the commands of this project."""


def _run(**options: Any) -> Any:
    del options[ONLY_STALE_OUTPUTS]  # the session finds it in the command line that Kedro stores
    assert kedro_run.callback is not None
    return kedro_run.callback(**options)


run = click.Command(
    "run",
    params=[*kedro_run.params, click.Option(["--only-stale-outputs"], is_flag=True, help=HELP)],
    callback=_run,
    help=kedro_run.help,
)
cli.add_command(run)
