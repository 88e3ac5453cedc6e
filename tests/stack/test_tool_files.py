"""Tools on disk: how they are imported, and that nobody but the engine gets the engine's names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from horarium.errors import ConfigError, ToolImportClash
from horarium.project import Project, clashing_imports, load_tools, tools_apart
from tests.stack.conftest import Write
from tests.support.stack import CHECKOUT

TOOL = '''
from horarium import tool

@tool(effect="read")
def {name}() -> str:
    """Look."""
    return "seen"
'''


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_tools_may_import_the_projects_own_packages_and_each_other(write: Write):
    settings = write(
        ours__words="WORD = 'seen'\n",
        tools__look=TOOL.format(name="look") + "from ours.words import WORD\n",
        tools__more="from tools.look import look\n" + TOOL.format(name="glance"),
    )

    assert set(load_tools(settings)) == {"look", "glance"}


def test_a_tool_file_called_like_a_module_hides_nothing(write: Write):
    settings = write(tools__json=TOOL.format(name="look"))

    load_tools(settings)

    import json

    assert json.loads("[1]") == [1]


def test_every_file_that_cannot_be_imported_is_named_with_line_and_exception(write: Write):
    settings = write(
        tools__one="import nowhere_at_all\n",
        tools__two="x = 1\n\n\nraise SystemExit(3)\n",
        tools__three="def broken(:\n",
        tools__four="from horarium import tool\n\n@tool\ndef f(x): ...\n",
    )

    with pytest.raises(ConfigError) as refused:
        load_tools(settings)

    said = refused.value.message
    assert (
        "tools/one.py:1: importing tools/one.py ended with ModuleNotFoundError: No module named 'nowhere_at_all'"
        in said
    )
    assert "tools/two.py:4: importing tools/two.py ended with SystemExit: 3" in said
    assert "tools/three.py:1: importing tools/three.py ended with SyntaxError" in said
    assert (
        "tools/four.py:3: importing tools/four.py ended with ConfigError: Parameter 'x' of tool 'f' has no type."
        in said
    )


def test_two_tools_of_one_name_are_refused(write: Write):
    settings = write(tools__one=TOOL.format(name="look"), tools__two=TOOL.format(name="look"))

    with pytest.raises(ConfigError, match=r"'look': in tools/one\.py and in tools/two\.py"):
        load_tools(settings)


def test_what_a_tool_prints_at_import_does_not_get_into_a_commands_results(
    write: Write, capsys: pytest.CaptureFixture[str]
):
    load_tools(write(tools__one="print('noise')\n"))

    assert capsys.readouterr().out == ""


def test_imports_of_engine_names_are_found_wherever_they_are(write: Write):
    settings = write(
        tools__direct="import os, workflows.core\n",
        tools__inside="def f():\n    from activities import x\n",
        tools__through="from ours import deep\n",
        tools__dynamic="import importlib\nimportlib.import_module('schedules.cron')\n",
        tools__innocent="import workflows_of_mine\nfrom . import workers_of_mine\n",
        ours____init__="",
        ours__deep="from .deeper import y\n",
        ours__deeper="try:\n    import workers\nexcept ImportError:\n    pass\n",
        ours__unused="import workflows\n",
    )
    (settings.root / "ours" / "__init__.py").write_text("")

    found = [str(clash).partition(", ")[0] for clash in clashing_imports(settings)]

    assert found == [
        "ours/deeper.py:2: imports 'workers'",
        "tools/direct.py:1: imports 'workflows'",
        "tools/dynamic.py:2: imports 'schedules'",
        "tools/inside.py:2: imports 'activities'",
    ]


def test_clashing_tools_go_to_a_process_of_their_own_unless_that_is_forbidden(write: Write):
    settings = write(tools__one="import workflows\n")
    inside = settings.model_copy(update={"tools": settings.tools.model_copy(update={"process": "engine"})})

    apart, clashes = tools_apart(settings)

    assert apart
    assert len(clashes) == 1
    with pytest.raises(ConfigError) as refused:
        tools_apart(inside)
    assert refused.value.hint is not None
    assert 'process = "own"' in refused.value.hint


@pytest.mark.parametrize("caught", [False, True])
def test_a_library_that_wants_an_engine_name_is_refused_in_the_engine(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caught: bool
):
    library = tmp_path / "site"
    library.mkdir()
    (library / "flowlib.py").write_text("import workflows\n")
    monkeypatch.syspath_prepend(str(library))
    text = "try:\n    import flowlib\nexcept Exception:\n    flowlib = None\n" if caught else "import flowlib\n"
    settings = write(tools__one=text)
    assert clashing_imports(settings) == ()

    with pytest.raises(ToolImportClash) as refused:
        Project.load(settings, with_tools=True)

    assert str(refused.value).startswith(f"tools/one.py needs {library}/flowlib.py, which imports 'workflows'")
    assert 'process = "own"' in str(refused.value)


def test_the_engine_refuses_by_name_when_its_name_is_taken(tmp_path: Path):
    (tmp_path / "workflows").mkdir()
    (tmp_path / "workflows" / "__init__.py").write_text("")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import workflows; sys.path.append({str(CHECKOUT)!r})\n"
        "from horarium.engine import use_engine; use_engine()"
    )

    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert "The engine needs the name 'workflows'" in done.stderr


def test_the_engine_comes_first_on_the_path(tmp_path: Path):
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; sys.path.append({str(CHECKOUT)!r})\n"
        "from horarium.engine import use_engine; use_engine(); import workers; print(workers.__file__)"
    )

    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)

    assert Path(done.stdout.strip()) == CHECKOUT / "workers" / "__init__.py", done.stderr
