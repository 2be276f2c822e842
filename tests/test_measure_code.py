"""`scripts/measure_code.py` on a package of three modules whose measures are counted by hand."""

import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

DOOR = '"""The door."""\n\nfrom .maths import add\n'
MATHS = '''"""Sums."""

from house.parts import deep

def add(first: "Float[Tensor, 'B N']", second, *others):
    """Two of a shape.

    Raises ValueError for others.
    """
    found = first + second

    return found if others else [one for row in deep.ROWS for one in row]
'''
DEEP = f'''class Room:
    def __init__(self, width):
        self.width = width

    def _fill(self, told, *, kept=1):
        return max(1, 2, 3, 4, 5, {"told" * 30})

    def shut(self):
        """Only this."""

def late():
    import house.maths
    return [sorted(number for number in row) for row in house.maths.ROWS]

ROWS = []
'''


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        import measure_code
    return measure_code


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code") / "house"
    files = {"__init__.py": DOOR, "maths.py": MATHS, "parts/__init__.py": "", "parts/deep.py": DEEP}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_house_measured_by_hand(script, house):
    measures = script.measure(house)
    assert len(measures.files) == 4
    assert (measures.lines, measures.filled_lines) == (3 + 12 + 0 + 15, 2 + 8 + 0 + 11)
    assert [(place.size, place.name) for place in measures.classes] == [(9, "Room")]
    bodies = {place.name: place.size for place in measures.bodies}
    assert bodies == {"add": 3, "__init__": 1, "_fill": 1, "late": 2}  # `shut` has none
    arguments = {place.name: place.size for place in measures.arguments}
    assert arguments == {"add": 2, "__init__": 1, "_fill": 2, "shut": 0, "late": 0}
    assert measures.docstring_lines == 1 + 1 + 4 + 1
    assert (measures.public, measures.naming_shape, measures.naming_error) == (3, 1, 1)  # add, shut, late
    assert [(place.path, place.line) for place in measures.long_lines] == [("parts/deep.py", 6)]
    assert measures.ternaries == 1
    assert (measures.comprehensions, measures.nested_comprehensions) == (3, 2)
    assert [(place.size, place.name) for place in measures.positional_calls] == [(6, "max")]
    # Assigned: found, one, row, row, number, ROWS.
    # Arguments: first, second, others, self, self, self, width, told, kept.
    assert measures.assigned.total() == 6 + 9
    assert measures.private_words == {"found": 1, "one": 1, "others": 1, "told": 1, "kept": 1}


def test_arrows_floors_and_circles_of_a_small_house(script, house):
    measures = script.measure(house)
    assert measures.imports == {
        "house": {"house.maths"},
        "house.maths": {"house.parts.deep"},
        "house.parts": set(),
        "house.parts.deep": {"house.maths"},
    }
    rooms = script.to_rooms(measures.imports, "house")
    assert rooms == {"maths": {"parts"}, "parts": {"maths"}}
    assert script.circles(rooms) == [{"maths", "parts"}]
    assert script.circles(measures.imports) == [{"house.maths", "house.parts.deep"}]
    assert script.floors(rooms) == 1 and script.arrows(rooms) == 2 and script.arrows(measures.imports) == 3


def test_floors_are_the_longest_chain_of_imports(script):
    chain = {"a": {"b", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert script.floors(chain) == 4
    assert script.floors(chain | {"d": {"c"}}) == 3  # c and d share a floor
    assert script.floors({}) == 0


def test_the_tables_put_packages_side_by_side_and_judge_none(script, house, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["measure_code.py", str(house), str(house / "parts")])
    script.main()
    out = capsys.readouterr().out
    assert "| | house | parts |" in out
    assert "| maths.py | 1 | 12 |" in out and "| parts/ | 2 | 15 |" in out
    assert "| class max (lines) | 9 | 9 |" in out
    assert "| ternaries per 1,000 lines | 48 | 0.0 |" in out  # 1 in 21 lines
    assert "    3  maths.py:5 add" in out
