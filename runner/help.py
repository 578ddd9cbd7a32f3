"""The text of --help, without starting Hydra: the template of `conf/hydra/help/crossover.yaml`, filled in as Hydra would."""

import string
from collections.abc import Sequence
from pathlib import Path


def text(folders: Sequence[Path]) -> str:
    """Return the help with the choices found in the config `folders`, the program's own first."""
    lines = (folders[0] / "hydra" / "help" / "crossover.yaml").read_text().splitlines()
    start = lines.index("template: |") + 1  # reading the block by hand saves the import of a YAML parser
    template = "".join(f"{line[2:]}\n" for line in lines[start:])
    return string.Template(template).substitute(APP_CONFIG_GROUPS=_choices(folders))


def _choices(folders: Sequence[Path]) -> str:
    """List the choices of every group, one group a line, in Hydra's own format."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.glob("*/**/*.y*ml"):
            group = path.parent.relative_to(folder).as_posix()
            if path.suffix == ".yaml" and not any(part.startswith((".", "__")) for part in group.split("/")):
                found.setdefault(group, set()).add(path.stem)
    return "".join(
        f"{group}: {', '.join(sorted(names))}\n" for group, names in sorted(found.items()) if group.split("/")[0] != "hydra"
    )
