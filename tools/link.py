"""Puts this checkout on its environment's path, with the `headgate` command: an editable install without a build step.

`pip install -e .` would download a build backend outside the pinned requirements; this writes the same itself.
Importable metadata (the version) comes from `pyproject.toml`, written as a minimal dist-info folder.
"""

import stat
import sys
import sysconfig
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    site = Path(sysconfig.get_path("purelib"))
    (site / "headgate.pth").write_text(f"{ROOT / 'src'}\n")
    info = site / f"headgate-{project['version']}.dist-info"
    for stale in site.glob("headgate-*.dist-info"):
        for file in stale.iterdir():
            file.unlink()
        stale.rmdir()
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: headgate\nVersion: {project['version']}\n")
    (info / "INSTALLER").write_text("headgate-tools-link\n")
    (info / "RECORD").write_text("")
    module, function = project["scripts"]["headgate"].split(":")
    script = Path(sysconfig.get_path("scripts")) / "headgate"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


if __name__ == "__main__":
    main()
