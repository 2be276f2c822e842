"""How is a package laid out, and how dense are its lines?  Markdown tables on stdout: a mirror, not a limit.

    python scripts/measure_code.py                                  # attnvis, of this checkout
    python scripts/measure_code.py attnvis SITE_PACKAGES/captum     # side by side

Each FOLDER is one package; every *.py below it is read, and nothing is imported or run.

Layout.  A *room* is a folder right below the package, or a module that lies there; the package's own
`__init__` is the door and no room.  An *arrow* is a pair of modules of which one imports the other,
wherever in the file it does, counted once; between rooms, a pair of rooms.  Names that a package offers
lazily, by their text, draw no arrow.  *Floors*: the rooms of the longest chain of imports; rooms that
import one another in a circle share a floor.  A *circle* is a set of modules (of rooms) each of which
reaches every other.

Density.  Rates are per 1,000 lines that are not blank; the 90th percentile of n numbers is the one at
int(0.9 n), counted from 0, smallest first.

- body: lines from a function's first statement after its docstring to its last, blank ones included; a
  function that is a docstring and nothing else is left out.  Methods and inner functions count, lambdas do
  not.
- arguments: those with a name of their own; `self`, `cls`, `*args` and `**kwargs` are not counted.
- class: lines from `class` to its last, without decorators.
- docstrings: the lines of all docstrings, in per cent of all lines, blank ones included.
- naming a shape: of the functions, methods and inner functions without a leading underscore, those whose
  docstring, annotations or class's docstring hold the word shape or array, an annotation of jaxtyping or a
  list of axes that opens with B or N, as in [B, D, h, w] or (N, C, H, W).
- naming an error: of the same, those whose own docstring or annotations speak of raising, an error or an
  exception.
- long lines: those of more than 100 characters, in per cent of the lines that are not blank.
- comprehensions: lists, sets, dicts and generators; nested: those with another one inside or with two
  `for`.
- positional calls: calls with six or more arguments that are not named; `*rest` is one.
- private words: assignments (also of a loop, a comprehension, `with` or `:=`) and arguments whose name is a
  word of PRIVATE, in per cent of all of them.  Such a word says which part it has in a sentence, not what
  it holds.
"""

import argparse
import ast
import re
import statistics
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LONG = 100  # characters; a line that is longer counts as long
MANY = 6  # positional arguments of a call
PLACES = 5  # of each kind are listed
PRIVATE = frozenset(
    {"asked", "every", "facts", "found", "given", "here", "how", "kept", "known", "made", "mine", "one"}
    | {"others", "own", "part", "rest", "said", "seen", "told", "wanted", "what", "where", "which", "whole"}
)

SHAPE = re.compile(
    r"\b(?:shapes?|arrays?|ndarray)\b"
    r"|\b(?:Float|Real|Num|Int|UInt|Integer|Bool|Shaped|Inexact)(?:8|16|32|64)?\["  # jaxtyping
    r"|\b[BN](?:, ?| | ?x ?)[A-Z]"  # B, D, h, w; B N D; B x D; BxD
)
ERROR = re.compile("rais|error|exception", re.IGNORECASE)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | Function
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
Graph = dict[str, set[str]]  # a name -> the names it imports


@dataclass(frozen=True)
class Place:
    """Something of a size, and where it stands."""

    size: int
    path: str  # from the package's folder
    line: int
    name: str = ""

    def __str__(self) -> str:
        return f"{self.size:>5}  {self.path}:{self.line} {self.name}".rstrip()


@dataclass
class Measures:
    """What was counted in one package; lists hold one entry per function, class or line."""

    name: str
    imports: Graph = field(default_factory=dict)  # module -> modules, by their full names
    files: list[Place] = field(default_factory=list)  # of so many lines
    bodies: list[Place] = field(default_factory=list)
    arguments: list[Place] = field(default_factory=list)
    classes: list[Place] = field(default_factory=list)
    long_lines: list[Place] = field(default_factory=list)
    docstring_lines: int = 0
    filled_lines: int = 0  # those that are not blank
    functions: int = 0
    public: int = 0
    naming_shape: int = 0
    naming_error: int = 0
    ternaries: int = 0
    comprehensions: int = 0
    nested_comprehensions: int = 0
    positional_calls: list[Place] = field(default_factory=list)
    assigned: Counter[str] = field(default_factory=Counter)  # name -> how often it is assigned or an argument

    @property
    def lines(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def private_words(self) -> Counter[str]:
        return Counter({name: count for name, count in self.assigned.items() if name in PRIVATE})


def measure(folder: Path) -> Measures:
    """Every *.py below the folder of a package.  Raises SyntaxError for a file that is not Python."""
    folder = folder.resolve()
    paths = {module_name(path, folder): path for path in sorted(folder.rglob("*.py"))}
    measures = Measures(folder.name, imports={name: set() for name in paths})
    for name, path in paths.items():
        with tokenize.open(path) as file:  # in the encoding that the file declares
            text = file.read()
        tree = ast.parse(text, filename=str(path))
        place = path.relative_to(folder).as_posix()
        count_lines(measures, text, place)
        count_nodes(measures, tree, place)
        is_package = path.name == "__init__.py"
        targets = imported(tree, package=name if is_package else name.rpartition(".")[0])
        measures.imports[name] = {longest_known(target, paths) for target in targets} - {name, ""}
    return measures


def module_name(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.Module, package: str) -> Iterator[str]:
    """The full name of everything a file imports: modules, and names out of modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            above = parents[: len(parents) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def longest_known(name: str, modules: Mapping[str, Path]) -> str:
    """The module that a dotted name belongs to; empty if it is of another package."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def count_lines(measures: Measures, text: str, place: str) -> None:
    lines = text.splitlines()
    measures.files.append(Place(len(lines), place, line=1))
    measures.filled_lines += sum(bool(line.strip()) for line in lines)
    for number, line in enumerate(lines, start=1):
        if len(line) > LONG:
            measures.long_lines.append(Place(len(line), place, number))


def count_nodes(measures: Measures, tree: ast.Module, place: str) -> None:
    around: dict[ast.AST, ast.ClassDef] = {}  # a method -> its class
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            around |= dict.fromkeys(node.body, node)
    for node in ast.walk(tree):
        if isinstance(node, Documented):
            docstring = docstring_of(node)
            if docstring is not None:
                measures.docstring_lines += extent(docstring, docstring)
        if isinstance(node, Function):
            count_function(measures, node, place, around=around.get(node))
        elif isinstance(node, ast.ClassDef):
            measures.classes.append(Place(extent(node, node), place, node.lineno, node.name))
        elif isinstance(node, ast.IfExp):
            measures.ternaries += 1
        elif isinstance(node, COMPREHENSIONS):
            measures.comprehensions += 1
            inside = sum(isinstance(child, COMPREHENSIONS) for child in ast.walk(node)) > 1
            measures.nested_comprehensions += inside or len(node.generators) > 1
        elif isinstance(node, ast.Call) and len(node.args) >= MANY:
            name = ast.unparse(node.func).partition("\n")[0]
            measures.positional_calls.append(Place(len(node.args), place, node.lineno, name))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            measures.assigned[node.id] += 1
        elif isinstance(node, ast.arg):
            measures.assigned[node.arg] += 1


def count_function(measures: Measures, node: Function, place: str, around: ast.ClassDef | None) -> None:
    statements = node.body[1:] if docstring_of(node) else node.body
    if statements:
        size = extent(statements[0], statements[-1])
        measures.bodies.append(Place(size, place, node.lineno, node.name))
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    names = [argument.arg for argument in named if argument.arg not in ("self", "cls")]
    measures.arguments.append(Place(len(names), place, node.lineno, node.name))
    measures.functions += 1
    if not node.name.startswith("_"):
        text = f"{ast.get_docstring(node)}\n{annotations(node)}"
        text_of_class = ast.get_docstring(around) or "" if around else ""
        measures.public += 1
        measures.naming_shape += bool(SHAPE.search(text) or SHAPE.search(text_of_class))
        measures.naming_error += bool(ERROR.search(text))


def docstring_of(node: Documented) -> ast.expr | None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return first.value if isinstance(first.value.value, str) else None
    return None


def annotations(node: Function) -> str:
    """Of the arguments and of what comes back, as they are written."""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    arguments += [argument for argument in (node.args.vararg, node.args.kwarg) if argument]
    written = [argument.annotation for argument in arguments] + [node.returns]
    return "\n".join(ast.unparse(annotation) for annotation in written if annotation)


def extent(first: ast.stmt | ast.expr, last: ast.stmt | ast.expr) -> int:
    """Lines from the start of one node to the end of another."""
    return (last.end_lineno or last.lineno) - first.lineno + 1


def to_rooms(imports: Graph, package: str) -> Graph:
    """Rooms -> the rooms that they import; the door is none, and a room does not import itself."""
    rooms: Graph = {}
    for name, targets in imports.items():
        if name == package:
            continue
        room = room_of(name)
        others = {room_of(target) for target in targets if target != package}
        rooms.setdefault(room, set()).update(others - {room})
    return rooms


def room_of(module: str) -> str:
    return module.split(".")[1]


def circles(graph: Graph) -> list[set[str]]:
    """Sets of names each of which reaches every other; a name by itself is no circle."""
    reach = {name: reachable(graph, name) for name in graph}
    sets = {frozenset(other for other in reach[name] if name in reach[other]) for name in graph}
    return sorted((set(names) for names in sets if len(names) > 1), key=sorted)


def reachable(graph: Graph, start: str) -> set[str]:
    """Everything that `start` imports, and what that imports, and so on; itself only in a circle."""
    seen: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead += graph[name]
    return seen


def floors(graph: Graph) -> int:
    """The names of the longest chain of imports, a circle being one link of it."""
    circle_of = {name: min(names) for names in circles(graph) for name in names}
    links: Graph = {}
    for name, targets in graph.items():
        link = circle_of.get(name, name)
        links.setdefault(link, set()).update(circle_of.get(target, target) for target in targets)
    heights: dict[str, int] = {}

    def height(link: str) -> int:
        if link not in heights:
            heights[link] = 1 + max((height(below) for below in links[link] - {link}), default=0)
        return heights[link]

    return max(map(height, links), default=0)


def arrows(graph: Graph) -> int:
    return sum(map(len, graph.values()))


def p90(sizes: Iterable[int]) -> int:
    """The 90th percentile: of n numbers the one at int(0.9 n), counted from 0; 0 of none."""
    ordered = sorted(sizes)
    return ordered[int(0.9 * len(ordered))] if ordered else 0


def sizes_of(places: Sequence[Place]) -> list[int]:
    return [place.size for place in places]


def layout_table(measures: Measures) -> str:
    """Each room with its files and lines, as Markdown."""
    files: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for file in measures.files:
        folder, slash, _ = file.path.partition("/")
        room = folder + slash
        files[room] += 1
        lines[room] += file.size
    rows = [f"| {room} | {files[room]} | {lines[room]} |" for room in sorted(files)]
    return "\n".join([f"| {measures.name}/ | files | lines |", "|---|---:|---:|", *rows])


def summary(measures: Measures) -> dict[str, str]:
    """Name of a measure -> its value, in the order of the table."""
    rooms = to_rooms(measures.imports, measures.name)
    bodies, arguments = sizes_of(measures.bodies), sizes_of(measures.arguments)
    assigned, private = measures.assigned.total(), measures.private_words.total()

    def per_thousand(count: int) -> str:
        return short(1000 * count / max(1, measures.filled_lines))

    def percent(count: int, of: int) -> str:
        return short(100 * count / max(1, of))

    return {
        "files": str(len(measures.files)),
        "lines": str(measures.lines),
        "classes": str(len(measures.classes)),
        "functions": str(measures.functions),
        "rooms": str(len(rooms)),
        "floors (of rooms)": str(floors(rooms)),
        "arrows between rooms": str(arrows(rooms)),
        "arrows between modules": str(arrows(measures.imports)),
        "circles of rooms / of modules": f"{len(circles(rooms))} / {len(circles(measures.imports))}",
        "function body, median / p90 / max": (
            f"{statistics.median(bodies or [0]):g} / {p90(bodies)} / {max(bodies, default=0)}"
        ),
        "arguments, p90 / max": f"{p90(arguments)} / {max(arguments, default=0)}",
        "class max (lines)": str(max(sizes_of(measures.classes), default=0)),
        "docstring lines, % of all": percent(measures.docstring_lines, of=measures.lines),
        "functions naming a shape / an error, %": (
            f"{percent(measures.naming_shape, of=measures.public)} / "
            f"{percent(measures.naming_error, of=measures.public)}"
        ),
        f"lines over {LONG} characters, %": percent(len(measures.long_lines), of=measures.filled_lines),
        "ternaries per 1,000 lines": per_thousand(measures.ternaries),
        "comprehensions per 1,000 lines (nested)": (
            f"{per_thousand(measures.comprehensions)} ({per_thousand(measures.nested_comprehensions)})"
        ),
        f"calls with {MANY} or more positional arguments, per 1,000": per_thousand(
            len(measures.positional_calls)
        ),
        "private words, % of assigned names": f"{percent(private, of=assigned)} ({private} of {assigned})",
    }


def short(number: float) -> str:
    """Whole numbers from 10 on, one digit behind the point below."""
    return f"{number:.0f}" if number >= 9.95 else f"{number:.1f}"


def summary_table(packages: Sequence[Measures]) -> str:
    """One column per package, as Markdown."""
    columns = [summary(measures) for measures in packages]
    heading = " | ".join(measures.name for measures in packages)
    rule = "|".join("---:" for _ in packages)
    rows = [f"| {name} | {' | '.join(column[name] for column in columns)} |" for name in columns[0]]
    return "\n".join([f"| | {heading} |", f"|---|{rule}|", *rows])


def places(measures: Measures) -> str:
    """The longest and the widest, largest first."""
    kinds = {
        "longest files": measures.files,
        "longest functions": measures.bodies,
        "most arguments": measures.arguments,
        "longest classes": measures.classes,
        "longest lines": measures.long_lines,
        "most positional arguments in a call": measures.positional_calls,
    }
    paragraphs = []
    for title, items in kinds.items():
        largest = sorted(items, key=lambda place: (-place.size, place.path, place.line))[:PLACES]
        paragraphs.append("\n".join([f"{title}:", *map(str, largest)]))
    words = [f"{count:>5}  {word}" for word, count in measures.private_words.most_common()]
    paragraphs.append("\n".join(["private words:", *words]))
    for names in circles(measures.imports):
        paragraphs.append("a circle: " + ", ".join(sorted(names)))
    return "\n\n".join(paragraphs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    checkout = Path(__file__).resolve().parents[1]
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", default=[checkout / "attnvis"])
    folders = parser.parse_args().folders
    packages = [measure(folder) for folder in folders]
    print("\n\n".join(layout_table(measures) for measures in packages), end="\n\n")
    print(summary_table(packages), end="\n\n")
    print("\n\n".join(f"## {measures.name}\n\n{places(measures)}" for measures in packages))


if __name__ == "__main__":
    main()
