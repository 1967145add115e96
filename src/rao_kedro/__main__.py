"""`rao_kedro`, or `python -m rao_kedro`: `kedro run` from any directory, for the installed package.

Data are read from and written to the current directory. The configuration is what `--conf-source` names, else the
directory `conf` there, else that of the package.
"""

import logging
import sys
from typing import Any

PACKAGE = "rao_kedro"


def main(*args: Any, **kwargs: Any) -> Any:
    """Run as the command line says, or as `args` do, for example `main(["--env", "test"])` in a notebook."""
    # When imported, Kedro names the file that configures its logging.
    logging.getLogger("kedro.framework.project").addFilter(lambda record: record.levelno > logging.INFO)
    from kedro.framework.cli.utils import find_run_command
    from kedro.framework.project import configure_project

    configure_project(PACKAGE)
    kwargs.setdefault("standalone_mode", not hasattr(sys, "ps1"))  # else click ends an interactive Python
    return find_run_command(PACKAGE)(*args, **kwargs)


if __name__ == "__main__":
    main()
