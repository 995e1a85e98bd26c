"""Rows of published runs, as a user writes them."""


def toml(value) -> str:
    """A value as TOML writes it, in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else repr(value)


def write(path, *rows: dict) -> str:
    """A file of runs with these rows; its path."""
    lines = ("[[run]]\n" + "\n".join(f"{key} = {toml(value)}" for key, value in row.items()) for row in rows)
    path.write_text("\n\n".join(lines), "utf-8")
    return str(path)


def changed(path: tuple[str, ...], value, row: dict) -> dict:
    """A row with one field changed, or with `...` left out; called bad."""
    row = {**row, "name": "bad"}
    where = row
    for key in path[:-1]:
        where[key] = dict(where[key])
        where = where[key]
    where[path[-1]] = value
    if value is ...:
        del where[path[-1]]
    return row
