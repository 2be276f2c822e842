"""The explorer's modules become one script, and what cannot be joined is refused."""

import shutil
import subprocess

import pytest

from attnvis.explorer import modules

SMALL = {
    "main.js": 'import { two } from "./two.js";\nimport { one } from "./one.js";\nconst sum = one + two;\n',
    "two.js": 'import { one } from "./one.js";\nexport const two = one + one;\n',
    "one.js": "export const one = 1;\n",
}


def joined(**changed: str) -> str:
    files = SMALL | {f"{name}.js": text for name, text in changed.items()}
    return modules.join_modules("main.js", files.__getitem__)


def test_every_module_comes_once_and_after_what_it_imports():
    lines = [line for line in joined().splitlines() if line.startswith("const")]
    assert lines == ["const one = 1;", "const two = one + one;", "const sum = one + two;"]


@pytest.mark.parametrize(
    "changed, words",
    [
        (
            {"one": 'import { two } from "./two.js";\nexport const one = 1;\n'},
            "circle: main.js -> two.js -> one.js",
        ),
        ({"two": "export default 2;\n"}, "no import or export that can be joined"),
        ({"one": 'import fs from "fs";\nexport const one = 1;\n'}, "no import or export that can be joined"),
        ({"one": "export const one = 1;\nconst sum = 2;\n"}, "both declare sum"),
    ],
)
def test_modules_that_cannot_be_joined_are_refused(changed, words):
    with pytest.raises(ValueError, match=words):
        joined(**changed)


def test_the_explorers_script_is_whole_and_ends_no_tag():
    script = modules.script()
    assert not [line for line in script.splitlines() if line.startswith(("import ", "export "))]
    assert "</" not in script and "<!--" not in script  # it stands inside <script>
    assert "innerHTML" not in script and "eval(" not in script and "fetch(" not in script


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
def test_node_reads_the_script():
    subprocess.run(["node", "--check", "-"], input=modules.script(), text=True, check=True)
