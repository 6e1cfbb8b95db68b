"""`shellwego schema`: the JSON schema of shellwego.toml, for editors."""

from __future__ import annotations

from shellwego.cli.groups import single
from shellwego.cli.here import Here, command
from shellwego.cli.output import Format
from shellwego.core.appfile_keys import file_schema

app = single()


@command(app, "schema")
async def schema(here: Here) -> None:
    """
    Print the JSON schema of shellwego.toml, for your editor.

    \b
    Example:
      shellwego schema > shellwego.schema.json
    """
    if here.output.form is Format.TABLE:
        here.output.form = Format.JSON
    here.output.document(file_schema())
