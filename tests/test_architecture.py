"""The house rules that can be read from the code, each shown to bite on a bad sample.

Every guard is a function over source text, or over its syntax tree, that returns what is wrong.
"""

from __future__ import annotations

import ast
import doctest
import graphlib
import importlib
import io
import json
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

from rlhf_gym import protocols

CORE = {
    "array_files",
    "config",
    "data",
    "device",
    "documents",
    "errors",
    "files",
    "links",
    "locks",
    "pictures",
    "printing",
    "protocols",
    "provenance",
    "reading",
    "registry",
    "runs",
    "scored",
    "seeding",
    "text_clips",
    "trust",
}
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_EXAMPLE_LINES = 80
HEAVY = {"torch", "stable_baselines3", "transformers", "pygame", "mujoco", "matplotlib"}
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
# Only these may open a file for reading, decode what it holds, or print; everybody else asks them.
DOORS = {
    "rlhf_gym.array_files": "tensors and arrays",
    "rlhf_gym.documents": "JSON and YAML",
    "rlhf_gym.printing": "the terminal",
    "rlhf_gym.reading": "bytes, text and lines",
}
READS = {
    "open", "os.fdopen", "gzip.open", "json.load", "json.loads", "load_file", "safe_open",
    "yaml.safe_load", "yaml.safe_load_all", "np.load", "np.fromfile", "np.memmap", "np.loadtxt",
    "np.genfromtxt", "zipfile.ZipFile", "torch.load",
}  # fmt: skip
READING_METHODS = {"read_bytes", "read_text"}
READING_MODES = {"'r'", "'rb'", "'rt'", "'a+'", "'ab+'", "'r+'", "'r+b'"}
ALLOWED = {
    # Text that this process, or its own child, wrote a moment ago.
    ("rlhf_gym.runs", "json.loads(json.dumps(content))"),
    ("rlhf_gym.benchmark.scheduler", "run.log.read_text(errors='replace')"),
    ("rlhf_gym.render_process", "os.fdopen(os.dup(1), 'wb', buffering=0)"),
    # Files opened where no link is followed, and one that only its owner can write.
    ("rlhf_gym.links", "os.fdopen(descriptor, 'r+b')"),
    ("rlhf_gym.links", "os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, "
     "mode), 'wb')"),
    ("rlhf_gym.trust", "os.fdopen(descriptor, 'rb')"),
    # Files of the package itself, and of the kernel.
    ("rlhf_gym.agents.text.agent_settings", "(resources.files('rlhf_gym.agents') / 'text.yml')"
     ".read_text(encoding='utf-8')"),
    ("rlhf_gym.agents.text.agent_settings", "yaml.safe_load(text)"),
    ("rlhf_gym.envs.rubrics", "page.read_text(encoding='utf-8')"),
    ("rlhf_gym.provenance", "files[name].read_bytes()"),
    ("rlhf_gym.provenance", "Path('/proc/cpuinfo').read_text()"),
}  # fmt: skip
# The loop serves both domains, so it knows neither library.
NOT_IN_LOOP = {"stable_baselines3", "transformers"}


# -- layers ---------------------------------------------------------------------------------------


def layer(module: str) -> int:
    """The layer of DESIGN section 2: 0 the nouns, 5 the command line."""
    _, _, inner = module.partition(".")
    room = inner.partition(".")[0]
    if room in CORE:
        return 0
    special = {"language": 1, "envs": 2, "agents": 3, "feedback": 3, "cli": 5, "__main__": 5}
    return special.get(room, 4)


def may_import(module: str, target: str) -> bool:
    """Down or sideways within the room; the facade loads the nouns and registers the envs."""
    if module == "rlhf_gym":
        return layer(target) == 0 or target == "rlhf_gym.envs"
    rooms = {name.split(".")[1] for name in (module, target) if "." in name}
    if rooms == {"agents", "feedback"} or rooms == {"feedback", "envs"}:
        return False
    if target == "rlhf_gym":  # the version and the facade's names: for the top floors only
        return layer(module) >= 4
    return layer(target) <= layer(module)


def imported_names(tree: ast.AST) -> Iterator[tuple[int, str, list[str]]]:
    """(line, module, names taken from it) of every import, also those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            yield node.lineno, dots + (node.module or ""), [alias.name for alias in node.names]


def internal_imports(tree: ast.AST, modules: Collection[str]) -> set[str]:
    """The modules of this package that a module imports; `from p import m` means p.m."""
    found: set[str] = set()
    for _, module, names in imported_names(tree):
        if module.partition(".")[0] != "rlhf_gym":
            continue
        submodules = {f"{module}.{name}" for name in names} & set(modules)
        found |= submodules
        if len(submodules) < max(len(names), 1):
            found.add(module)
    return found


def layer_violations(edges: Mapping[str, set[str]]) -> list[str]:
    return [
        f"{module} imports {target}"
        for module, targets in sorted(edges.items())
        for target in sorted(targets)
        if not may_import(module, target)
    ]


def import_cycle(edges: Mapping[str, set[str]]) -> list[str]:
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(scope="module")
def edges(package_trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    return {name: internal_imports(tree, package_trees) for name, tree in package_trees.items()}


def test_imports_point_down_the_layers(edges: dict[str, set[str]]) -> None:
    assert layer_violations(edges) == []


def test_no_import_cycle(edges: dict[str, set[str]]) -> None:
    assert import_cycle(edges) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rlhf_gym.data", "import rlhf_gym.envs"),
        ("rlhf_gym.data", "from rlhf_gym import loop"),
        ("rlhf_gym.data", "from rlhf_gym import __version__"),
        ("rlhf_gym.feedback.store", "from rlhf_gym.agents.ppo import PPOAgent"),
        ("rlhf_gym.feedback.store", "def f():\n    from rlhf_gym.envs.make import make_env"),
        ("rlhf_gym.agents.ppo", "from rlhf_gym.feedback import store"),
        ("rlhf_gym.envs.make", "import rlhf_gym.agents.ppo"),
        ("rlhf_gym.loop", "from rlhf_gym.cli import main"),
        ("rlhf_gym", "from rlhf_gym.loop import train"),
    ],
)
def test_an_import_up_or_across_the_rooms_is_found(module: str, source: str) -> None:
    known = ["rlhf_gym.loop", "rlhf_gym.feedback.store"]
    assert layer_violations({module: internal_imports(ast.parse(source), known)})


def test_imports_that_the_layers_allow_pass() -> None:
    allowed = {
        "rlhf_gym": {"rlhf_gym.data", "rlhf_gym.envs"},
        "rlhf_gym.agents.ppo": {"rlhf_gym.envs.make", "rlhf_gym.agents.recorder", "rlhf_gym.data"},
        "rlhf_gym.feedback.store": {"rlhf_gym.data", "rlhf_gym.language.models"},
        "rlhf_gym.loop": {"rlhf_gym.runs", "rlhf_gym.feedback.store", "rlhf_gym.evaluation"},
    }
    assert layer_violations(allowed) == []


def test_a_cycle_is_found() -> None:
    assert import_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert not import_cycle({"a": {"b", "c"}, "b": {"c"}})


# -- rules for one module -------------------------------------------------------------------------


def import_style(tree: ast.Module) -> list[str]:
    """Relative imports, the rooms' bare names, and anything that unpickles."""
    wrong = []
    for line, module, names in imported_names(tree):
        top = module.partition(".")[0]
        if module.startswith("."):
            wrong.append(f"line {line}: relative import of {module}{','.join(names)}")
        elif top in {"envs", "agents", "feedback"}:
            wrong.append(f"line {line}: import rlhf_gym.{top}, not {top}")
        elif top in PICKLES:
            wrong.append(f"line {line}: {top} runs code from the file it reads")
    return wrong


def unsafe_calls(tree: ast.Module) -> list[str]:
    """Calls that may unpickle or evaluate what a file holds."""
    wrong = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        options = {k.arg: ast.unparse(k.value) for k in call.keywords}
        if name in {"np.load", "numpy.load"} and options.get("allow_pickle") != "False":
            wrong.append(f"line {call.lineno}: {name} without allow_pickle=False")
        if name in {"torch.load", "th.load"} and options.get("weights_only") != "True":
            wrong.append(f"line {call.lineno}: {name} without weights_only=True")
        if name in {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"}:
            wrong.append(f"line {call.lineno}: {name}; use yaml.safe_load or json")
    return wrong


def unguarded(tree: ast.Module) -> list[str]:
    """Calls that read a file, decode one or print, past `DOORS`: as they stand in the code."""
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name, method = ast.unparse(call.func), getattr(call.func, "attr", "")
        arguments = [ast.unparse(value) for value in call.args]
        mode = {*arguments[:2], *(ast.unparse(k.value) for k in call.keywords if k.arg == "mode")}
        writes = any(re.fullmatch(r"'[wx]b?'", each) for each in mode)
        opens = method == "open" and (bool(mode & READING_MODES) or not arguments)
        if (
            (name in READS and not (name == "open" and writes))
            or opens
            or (method in READING_METHODS)
            or name in {"print", "Console"}
        ):
            found.append(ast.unparse(call))
    return found


def all_names(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return None


def sort_key(name: str) -> tuple[int, list[object]]:
    """The order of ruff's RUF022: CONSTANTS, Classes, functions; numbers by their value."""
    kind = 0 if len(name) > 1 and name.isupper() else 1 if name[:1].isupper() else 2
    return kind, [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]


def unsorted_all(tree: ast.Module) -> list[str]:
    names = all_names(tree) or []
    return [] if names == sorted(names, key=sort_key) else [f"__all__ = {names} is not sorted"]


def missing_docstrings(tree: ast.Module) -> list[str]:
    public = set(all_names(tree) or [])
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in tree.body if isinstance(node, kinds) and node.name in public]
    wrong = [f"{node.name} has no docstring" for node in nodes if not ast.get_docstring(node)]
    return wrong if ast.get_docstring(tree) else ["the module has no docstring", *wrong]


def long_functions(tree: ast.Module) -> list[str]:
    """Functions of more than the allowed lines, their docstring not counted."""
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            has_text = ast.get_docstring(node, clean=False) is not None
            text = (first.end_lineno or 0) - first.lineno + 1 if has_text else 0
            lines = (node.end_lineno or 0) - node.lineno + 1 - text
            if lines > MAX_FUNCTION_LINES:
                wrong.append(f"{node.name} has {lines} lines")
    return wrong


def bare_type_ignores(source: str) -> list[str]:
    """`# type: ignore` comments without a code in brackets, or without a reason behind."""
    allowed = re.compile(r"# type: ignore\[[a-z, -]+\]\s+# \S")
    return [
        f"line {token.start[0]}: {token.string}"
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
        and re.match(r"#\s*type:\s*ignore", token.string)
        and not allowed.match(token.string)
    ]


def module_violations(source: str) -> list[str]:
    """Everything that is wrong with one module by itself."""
    tree = ast.parse(source)
    n_lines = len(source.splitlines())
    too_long = [f"{n_lines} lines, at most {MAX_MODULE_LINES}"] * (n_lines > MAX_MODULE_LINES)
    guards = (import_style, unsafe_calls, unsorted_all, missing_docstrings, long_functions)
    return too_long + bare_type_ignores(source) + [w for guard in guards for w in guard(tree)]


def test_every_module_keeps_the_house_rules(package_modules: dict[str, Path]) -> None:
    wrong = {n: module_violations(path.read_text()) for n, path in package_modules.items()}
    assert {name: found for name, found in wrong.items() if found} == {}


@pytest.mark.parametrize(
    "body",
    [
        "from . import data",
        "from ..data import Clip",
        "import feedback.store",
        "from envs import make",
        "import pickle",
        "def f():\n    from cloudpickle import loads",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "eval(text)",
        '__all__ = ["b", "a"]',
        '__all__ = ["Clip", "LIMIT"]',
        '__all__ = ["f"]\ndef f():\n    return 1',
        '__all__ = ["C"]\nclass C:\n    x = 1',
        "x = 1  # type: ignore",
        "x = 1  # type: ignore[arg-type]",
        "x = 1  #type:ignore[arg-type]  # reason",
        "x = 1\n" * MAX_MODULE_LINES,
        "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES,
    ],
)
def test_a_module_that_breaks_a_rule_is_found(body: str) -> None:
    assert len(module_violations(f'"""Sample."""\n{body}\n')) == 1


def test_a_module_that_keeps_the_rules_passes() -> None:
    docstring = '    """Text.\n' + "\n" * 100 + '    """\n'
    source = (
        '"""Sample."""\nfrom rlhf_gym.data import Clip\n'
        '__all__ = ["LIMIT", "Sample", "fit", "v9", "v10"]\n'
        f"def fit():\n{docstring}" + "    x = 1\n" * (MAX_FUNCTION_LINES - 1) + "np.load(p, "
        "allow_pickle=False)\ntorch.load(p, weights_only=True)\nyaml.safe_load(t)\n"
        "x = 1  # type: ignore[arg-type]  # the stub is wrong\ns = '# type: ignore'\n"
    )
    assert module_violations(source) == []


def test_files_are_read_and_texts_printed_through_the_doors(
    package_trees: dict[str, ast.Module],
) -> None:
    found = {
        (module, call)
        for module, tree in package_trees.items()
        if module not in DOORS
        for call in unguarded(tree)
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    "call",
    [
        "open(path)", "open(path, 'rb')", "path.open()", "path.open('rb')", "path.read_text()",
        "path.read_bytes()", "json.load(file)", "json.loads(text)", "yaml.safe_load(text)",
        "np.load(path, allow_pickle=False)", "load_file(path)", "gzip.open(path)", "print(x)",
        "Console()", "path.open(mode='rb')",
    ],
)  # fmt: skip
def test_a_call_past_the_doors_is_found(call: str) -> None:
    assert unguarded(ast.parse(call)) == [call]


def test_a_module_without_a_docstring_is_found() -> None:
    assert module_violations("x = 1\n") == ["the module has no docstring"]


def test_the_loop_knows_neither_sb3_nor_transformers(
    package_trees: dict[str, ast.Module],
) -> None:
    tree = package_trees.get("rlhf_gym.loop", ast.Module([], []))
    assert {m.partition(".")[0] for _, m, _ in imported_names(tree)} & NOT_IN_LOOP == set()


# -- the package as a whole -----------------------------------------------------------------------


def test_the_run_asks_nothing_of_an_agent_that_the_protocol_lacks(repository: Path) -> None:
    # What a run may look for first (`hasattr`), and two commands that say so if it is missing.
    optional = {"act", "compare", "component_weights", "export_sb3"}
    used: set[str] = set()
    for name in ("loop", "training", "summary", "offline"):
        text = (repository / "rlhf_gym" / f"{name}.py").read_text()
        used |= set(re.findall(r"\bagent\.([a-z_0-9]+)", text))
    known = set(vars(protocols.Agent)) | set(protocols.Agent.__annotations__)
    assert {"improve", "log_to", "on_steps"} <= used, "the pattern finds what is called"
    assert used - optional <= known


def test_the_package_list_names_every_folder_with_code(
    repository: Path, package_modules: dict[str, Path]
) -> None:
    setuptools = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(repository).as_posix() for path in package_modules.values()}
    rooms = setuptools["package-dir"]
    # A package that is not mapped itself lies where its parent's folder says.
    mapped = {
        rooms.get(package) or f"{rooms[package.rpartition('.')[0]]}/{package.rpartition('.')[2]}"
        for package in setuptools["packages"]
    }
    assert mapped == folders
    assert all((repository / folder / "__init__.py").is_file() for folder in folders)


def test_importing_the_facade_or_the_core_loads_nothing_heavy() -> None:
    core = ", ".join(f"rlhf_gym.{name}" for name in sorted(CORE))
    for what in ("rlhf_gym", core):
        program = f"import {what}, sys, json; print(json.dumps(sorted(sys.modules)))"
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
        loaded = {name.partition(".")[0] for name in json.loads(result.stdout)}
        assert "rlhf_gym" in loaded
        assert loaded & HEAVY == set(), what


def test_every_doctest_holds(package_modules: dict[str, Path]) -> None:
    failed, attempted = {}, 0
    for name in package_modules:
        if not name.endswith("__main__"):  # importing it is running it
            result = doctest.testmod(importlib.import_module(name))
            attempted += result.attempted
            failed.update({name: result.failed} if result.failed else {})
    assert failed == {}
    assert attempted > 0


# -- examples -------------------------------------------------------------------------------------


def snippet_violations(text: str, folder: Path) -> list[str]:
    """Code blocks behind `<!-- example: PATH -->` that differ from the file they quote."""
    wrong = []
    for match in re.finditer(r"<!-- example: (\S+) -->\n(?:```python\n(.*?)```)?", text, re.S):
        path, quoted = folder / match[1], match[2]
        if not path.is_file():
            wrong.append(f"{match[1]} does not exist")
        elif quoted is None:
            wrong.append(f"no ```python block follows the marker of {match[1]}")
        elif quoted.strip() != path.read_text().strip():
            wrong.append(f"the block differs from {match[1]}: copy the file again")
    return wrong


def test_snippets_equal_the_example_files(repository: Path) -> None:
    pages = [repository / "README.md", *sorted((repository / "docs").rglob("*.md"))]
    assert [w for page in pages for w in snippet_violations(page.read_text(), repository)] == []


def test_a_snippet_that_differs_is_found(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("print(1)\n")
    good = "<!-- example: x.py -->\n```python\nprint(1)\n```\n"
    assert snippet_violations(good, tmp_path) == []
    assert snippet_violations(good.replace("(1)", "(2)"), tmp_path)
    assert snippet_violations(good.replace("x.py", "y.py"), tmp_path)
    assert snippet_violations("<!-- example: x.py -->\nprose", tmp_path)


def test_examples_are_short(repository: Path) -> None:
    lengths = {p.name: len(p.read_text().splitlines()) for p in repository.glob("examples/*.py")}
    assert {n: lines for n, lines in lengths.items() if lines > MAX_EXAMPLE_LINES} == {}
