"""Shell completion: Hydra knows the answers, but asks for `python FILE.py` or a script; this is about `python -m runner`."""

import re
from pathlib import Path

UNINSTALL = """\
for _crossover_name in python python3 crossover; do
    complete -r "$_crossover_name" 2>/dev/null
    if [[ -n ${_crossover_old[$_crossover_name]:-} ]]; then
        complete -o default -F "${_crossover_old[$_crossover_name]}" "$_crossover_name"
    fi
done
unset -f _crossover_complete
unset _crossover_old _crossover_name
"""


def script(command: str) -> str:
    """Return what `-sc install=bash` (`command` is `install`) or `uninstall=bash` prints, for `eval`."""
    return Path(__file__).with_name("completion.bash").read_text() if command == "install" else UNINSTALL


def rewrite(line: str) -> tuple[str, list[str]]:
    """Return the command line as Hydra's completion understands it, and the options of it that the query itself needs.

    >>> rewrite("python -m runner --config-dir mine gpu=")
    ('crossover --config-dir mine gpu=', ['--config-dir', 'mine'])
    """
    rest = re.sub(r"^\s*\S*python[\d.]*\s+-m\s+runner(?=\s|$)|^\s*\S+", "", line, count=1)
    folder = re.search(r"\s(?:--config-dir|-cd)[\s=](\S+)(?=\s)", rest)
    return f"crossover{rest}", ["--config-dir", folder[1]] if folder else []
