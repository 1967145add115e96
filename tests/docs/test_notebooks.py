"""The notebooks' test can fail."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_an_error_in_a_notebook_that_loads_kedro_is_a_failure(tmp_path):
    for name in ("conftest.py", "logging_of_tests.yml"):
        shutil.copy(ROOT / "notebooks" / name, tmp_path)
    notebook = json.loads((ROOT / "notebooks/rewards_and_targets.ipynb").read_text())
    cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    cell["source"] = ["import kedro.framework.project\n", "raise ValueError('this notebook is wrong')\n"]
    notebook["cells"] = [cell]
    (tmp_path / "wrong.ipynb").write_text(json.dumps(notebook))
    command = [sys.executable, "-m", "pytest", "--nbmake", "-p", "no:cacheprovider", "wrong.ipynb"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1 and "this notebook is wrong" in run.stdout, run.stdout
