"""Giving a Python server its key as an argument without the key standing in any process's argv.

For servers that take their key by argument alone: the interpreter is started with a line of its own that
reads the variable, forgets it, and adds the arguments inside the process. Used by the
adapters of `sextant.engines` and by `arguments.py`.
"""

from __future__ import annotations

KEY_VARIABLE = "ENGINE_API_KEY"


def run_module(module: str, *key_arguments: str) -> tuple[str, ...]:
    """Arguments for a Python interpreter: as `-m MODULE`, with `key_arguments` added. `{key}` in them is the
    key."""
    package = module.partition(".")[0]
    there = f"importlib.util.find_spec({package!r})"
    run = f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return ("-c", _line(run, key_arguments, there=there, missing=f"the Python package {package}"))


def run_file(path: str, *key_arguments: str) -> tuple[str, ...]:
    """The same for a script file, whose folder becomes the first place to import from."""
    run = f"sys.path.insert(0, os.path.dirname({path!r})); runpy.run_path({path!r}, run_name='__main__')"
    there = f"os.path.exists({path!r})"
    return ("-c", _line(run, key_arguments, there=there, missing=f"the file {path}"))


def _line(run: str, key_arguments: tuple[str, ...], *, there: str, missing: str) -> str:
    said = f"sextant: the engine cannot be started: {missing} is not there for "
    todo = "; install it, or name the right one as spec.engine.command"
    added = f"[part.replace('{{key}}', key) for part in {list(key_arguments)!r}]"
    return (
        f"import importlib.util, os, runpy, sys; key = os.environ.pop({KEY_VARIABLE!r}); "
        f"{there} or sys.exit({said!r} + sys.executable + {todo!r}); "
        f"sys.argv += {added}; {run}"
    )
