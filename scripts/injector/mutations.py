"""Files as nobody would write them: bytes, trees of JSON or YAML, tables of parquet."""

import copy
import json
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63), 2**64, 10**30, 10**400, 1e308, 0.5)
STRANGE = (float("nan"), float("inf"), None, True, "", "text", "../../x", "\ud800", "9" * 5000)
NESTED: tuple[Any, ...] = ([], {}, [[]], [{}], [[1, [2]]], {"a": {"b": 1}}, [None], [0] * 1000)
DEPTHS = (10, 1_000, 200_000)
DEEP = "@deep@"


def mutate_bytes(luck: Random, data: bytes) -> tuple[bytes, str]:
    """Flip bits, cut, repeat a part, or put something in; return the data and what was done."""
    how = luck.choice(("flip", "cut", "repeat", "insert", "zero", "replace"))
    place = luck.randrange(len(data) + 1)
    end = min(len(data), place + luck.choice((1, 4, 8, 100)))
    if how == "flip":
        new = bytearray(data)
        for _ in range(luck.choice((1, 2, 20))):
            if new:
                new[luck.randrange(len(new))] ^= 1 << luck.randrange(8)
        return bytes(new), how
    middle = {
        "cut": b"",
        "repeat": data[place:end] * luck.choice((2, 50)),
        "insert": data[place:end] + luck.randbytes(luck.choice((1, 8))),
        "zero": bytes(end - place),
        "replace": luck.randbytes(end - place),
    }[how]
    tail = b"" if how == "cut" and luck.random() < 0.5 else data[end:]
    return data[:place] + middle + tail, f"{how} at {place}..{end}"


def mutate_tree(luck: Random, tree: Any) -> tuple[Any, str]:
    """Put something strange into a tree of mappings and lists; return it and what was done."""
    tree = copy.deepcopy(tree)
    places = list(_places(tree))
    if not places or luck.random() < 0.02:
        value = _strange(luck)
        return value, f"all := {_short(value)}"
    holder, key, where = luck.choice(places)
    how = luck.choice(("replace", "replace", "replace", "delete", "rename"))
    if how == "delete":
        del holder[key]
    elif how == "rename" and isinstance(holder, MutableMapping):
        holder[luck.choice(("", "x", "../x", "format"))] = holder.pop(key)
    else:
        how = "replace"
        holder[key] = _strange(luck)
        return tree, f"{where} := {_short(holder[key])}"
    return tree, f"{how} {where}"


def _strange(luck: Random) -> Any:
    return luck.choice(luck.choice((NUMBERS, STRANGE, NESTED, (DEEP,))))


def _places(tree: Any, where: str = "") -> Iterator[tuple[Any, Any, str]]:
    """Yield every value in a tree as (what holds it, its key there, its path)."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    if isinstance(tree, dict | list):
        for key, value in list(items):
            yield tree, key, f"{where}/{key}"
            if isinstance(value, dict | list):
                yield from _places(value, f"{where}/{key}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:20]}... ({len(text)})"


def as_json(luck: Random, tree: Any) -> str:
    """Return a tree as JSON; what is deep in it is many brackets (YAML reads them, too)."""
    depth = luck.choice(DEPTHS)
    text = json.dumps(tree, indent=luck.choice((None, 1)))
    return text.replace(f'"{DEEP}"', "[" * depth + "]" * depth)


def mutate_table(luck: Random, path: Path) -> str:
    """Change a cell, or a whole column, of a parquet file; say what was done."""
    table = pq.read_table(path)
    name = luck.choice(table.column_names)
    place = table.column_names.index(name)
    how = luck.choice(("cell", "cell", "cell", "drop", "rename", "rows", "retype"))
    if how == "drop":
        table = table.drop_columns([name])
    elif how == "rename":
        names = [each if each != name else "x" for each in table.column_names]
        table = table.rename_columns(names)
    elif how == "rows":
        number = luck.choice((0, 1, 3))
        table = table.slice(0, len(table) - 1) if number else table.slice(0, 0)
        table = pa.concat_tables([table] * max(1, number))
    elif how == "retype":
        table = table.set_column(place, name, pa.array([luck.choice(("x", ""))] * len(table)))
    else:
        how = _set_cell(luck, path, table, place)
        return f"{name}: {how}"
    pq.write_table(table, path)
    return f"{how} of {name}"


def _set_cell(luck: Random, path: Path, table: pa.Table, place: int) -> str:
    field = table.schema.field(place)
    values = table.column(place).to_pylist()
    row = luck.randrange(len(values))
    candidates = [*NUMBERS, *STRANGE, *NESTED, [10**9], [-1.0], [float("nan")] * 2]
    luck.shuffle(candidates)
    for value in candidates:
        try:
            column = pa.array([*values[:row], value, *values[row + 1 :]], field.type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue  # no such value fits the column
        pq.write_table(table.set_column(place, field, column), path)
        return f"row {row} := {_short(value)}"
    return "nothing"
