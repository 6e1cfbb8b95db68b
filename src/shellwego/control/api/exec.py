"""A command inside an instance, over a WebSocket (the protocol is described in `protocol.public`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, WebSocket, WebSocketDisconnect

from shellwego.control.api import problems
from shellwego.control.api.calls import caller_of, credential_of
from shellwego.control.api.parts import ApiParts, Stream, parts_of
from shellwego.control.store.records import InstanceRecord
from shellwego.core.errors import Conflict, InvalidField, NodeUnavailable, ShellWeGoError, StartFailed
from shellwego.core.ids import NodeId
from shellwego.protocol.channel import ChannelClosed
from shellwego.protocol.messages import ExecData, ExecRequest, ExecResize, ExecSignal, StreamEnd
from shellwego.protocol.public import Problem

router = APIRouter(prefix="/v1/instances", tags=["exec"])

SUBPROTOCOL = "shellwego.exec.v1"
_STDIN, _STDOUT, _STDERR = 0, 1, 2
_CHANNELS = {"stdout": _STDOUT, "stderr": _STDERR}
MAXIMUM_WORDS, MAXIMUM_COMMAND_BYTES = 256, 64 * 1024
MAXIMUM_INPUT_BYTES = 4 * 1024 * 1024
_SIGNALS = range(1, 65)
_ENV_TERM = "xterm-256color"


@router.websocket("/{instance}/exec")
async def exec_in_instance(
    socket: WebSocket,
    instance: str,
    command: Annotated[list[str] | None, Query()] = None,
    tty: bool = False,
    columns: Annotated[int, Query(ge=1, le=1000)] = 80,
    rows: Annotated[int, Query(ge=1, le=1000)] = 24,
) -> None:
    """Refused before the upgrade with a problem document; what goes wrong later is the last message."""
    parts = parts_of(socket)
    request_id = problems.request_id_of(socket)
    try:
        found = await _instance(parts, socket, instance)
        words = _checked_command(command or [])
        assert found.node is not None
        request = ExecRequest(
            instance=found.id,
            command=words,
            tty=tty,
            columns=columns,
            rows=rows,
            env={"TERM": _ENV_TERM} if tty else {},
        )
        stream = await parts.agents.open_stream(NodeId(found.node), request)
    except ShellWeGoError as error:
        await socket.send_denial_response(problems.refusal(error, request_id))
        return
    try:
        await socket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in socket.scope.get("subprotocols", ()) else None)
        await _converse(socket, stream, request_id)
    finally:
        await stream.close()


async def _instance(parts: ApiParts, socket: WebSocket, id: str) -> InstanceRecord:
    credential = credential_of(socket)
    async with parts.store.reading() as work:
        caller, _ = await caller_of(work, credential)
        instance = await work.for_organisation(caller.organisation).instances.get(id)
    if instance.removed_at is not None or instance.node is None:
        raise Conflict(f"Instance {instance.id} is {instance.state.value}: there is nothing to run a command in.")
    return instance


def _checked_command(words: list[str]) -> list[str]:
    """Raises InvalidField."""
    if not words or not words[0]:
        raise InvalidField("command", "is missing. Give at least one, as `?command=ls&command=-l`.")
    if len(words) > MAXIMUM_WORDS or sum(len(word.encode(errors="replace")) for word in words) > MAXIMUM_COMMAND_BYTES:
        raise InvalidField("command", f"has over {MAXIMUM_WORDS} words or {MAXIMUM_COMMAND_BYTES // 1024} KiB.")
    if any("\0" in word or not _is_text(word) for word in words):
        raise InvalidField("command", "holds a NUL or characters that aren't Unicode text.")
    return words


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


async def _converse(socket: WebSocket, stream: Stream, request_id: str | None) -> None:
    """Both directions until the command ends or its user leaves, which ends the command."""
    output = asyncio.ensure_future(_output(socket, stream, request_id))
    incoming = asyncio.ensure_future(_input(socket, stream))
    try:
        done, _ = await asyncio.wait({output, incoming}, return_when=asyncio.FIRST_COMPLETED)
        if incoming in done and output not in done and incoming.exception() is None and not incoming.result():
            return
        if incoming in done and incoming.exception() is not None:
            error = incoming.exception()
            if not isinstance(error, ShellWeGoError):
                raise error or RuntimeError
            await _last_word(socket, problem=problems.problem_of(error, request_id))
            return
        await output
    finally:
        for task in (output, incoming):
            task.cancel()
        await asyncio.gather(output, incoming, return_exceptions=True)
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close()


async def _output(socket: WebSocket, stream: Stream, request_id: str | None) -> None:
    """What the command prints, then how it ended."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        try:
            while True:
                message = await stream.receive()
                if isinstance(message, ExecData) and message.channel in _CHANNELS:
                    await socket.send_bytes(bytes((_CHANNELS[message.channel],)) + message.data)
                elif isinstance(message, StreamEnd):
                    if message.exit_code is not None:
                        await _last_word(socket, exit_code=message.exit_code)
                    else:
                        error = StartFailed(message.problem or "The command could not be run.")
                        problem = problems.problem_of(error, request_id)
                        code = message.code or error.code
                        await _last_word(socket, problem=problem.model_copy(update={"code": code}))
                    return
        except ChannelClosed:
            lost = NodeUnavailable("of this instance")
            await _last_word(socket, problem=problems.problem_of(lost, request_id))


async def _input(socket: WebSocket, stream: Stream) -> bool:
    """What the user types and does, until they leave (False). Raises InvalidField for what isn't of the protocol."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return False
        try:
            data = message.get("bytes")
            if data is not None:
                if not data or data[0] != _STDIN or len(data) > MAXIMUM_INPUT_BYTES:
                    raise InvalidField("message", "only channel 0 goes to a command, in pieces of at most 4 MiB.")
                await stream.send(ExecData(channel="stdin", data=data[1:]))
            else:
                await stream.send(_control(message.get("text") or ""))
        except ChannelClosed:
            return True  # The output's side says how it ended.


def _control(text: str) -> ExecResize | ExecSignal:
    """Raises InvalidField."""
    try:
        said: Any = json.loads(text) if len(text) < 1000 else None
        if isinstance(said, dict) and set(said) == {"resize"}:
            columns, rows = said["resize"]["columns"], said["resize"]["rows"]
            if type(columns) is int and type(rows) is int and 1 <= columns <= 1000 and 1 <= rows <= 1000:
                return ExecResize(columns=columns, rows=rows)
        is_signal = isinstance(said, dict) and set(said) == {"signal"} and type(said["signal"]) is int
        if is_signal and said["signal"] in _SIGNALS:
            return ExecSignal(number=said["signal"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise InvalidField("message", 'send {"resize": {"columns": 80, "rows": 24}} or {"signal": 2}.')


async def _last_word(socket: WebSocket, *, exit_code: int | None = None, problem: Problem | None = None) -> None:
    said = {"exit": exit_code} if problem is None else {"problem": problem.model_dump(mode="json", exclude_none=True)}
    await socket.send_text(json.dumps(said))
