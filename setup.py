"""Puts into a wheel what lies outside of `src` and a run needs: the configuration and the prompts."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SHIPPED = ("conf", "data/01_raw/prompts.jsonl", "data/01_raw/conversations.jsonl.gz", "data/01_raw/conversations.md")


class BuildWithConf(build_py):
    """Copies them into `rao_kedro/shipped`, where `rao_kedro.framework.context` finds them; what is local stays out."""

    def run(self) -> None:
        """Build, and copy; an editable install finds them where they are."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "rao_kedro", "shipped")
        shutil.rmtree(target, ignore_errors=True)  # of an older build
        for name in SHIPPED:
            files = [ROOT / name] if (ROOT / name).is_file() else sorted((ROOT / name).rglob("*"))
            for path in (file.relative_to(ROOT) for file in files if file.is_file()):
                if path.parts[:2] == ("conf", "local") and path.name != ".gitkeep":
                    continue
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / path, target / path)


setup(cmdclass={"build_py": BuildWithConf})
