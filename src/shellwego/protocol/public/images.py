"""Which image stands in for which name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shellwego.protocol.public.bodies import Request


class ImageMapping(Request):
    """`pattern` (as `python:3*`, fnmatch) is what a Dockerfile or deploy names; `image` stands in for it here."""

    pattern: Annotated[str, Field(min_length=1, max_length=256)]
    image: Annotated[str, Field(min_length=1, max_length=512)]
