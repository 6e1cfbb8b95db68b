"""What does the public API take and give?

The bodies of `/v1`, one model each, used by the server (which publishes them as OpenAPI) and by the Python client
alike, so the two can't drift. Requests refuse unknown fields; answers may grow fields. Times are RFC 3339 in UTC,
durations are seconds, memory is MiB, CPU is thousandths of a core.
"""

from shellwego.protocol.public.apps import App, AppCreate, AppUpdate, ProcessStatus
from shellwego.protocol.public.auth import Login, Me, Refresh, Session
from shellwego.protocol.public.bodies import Answer, Count, Name, Page, Process, Request, Text
from shellwego.protocol.public.config import Config, ConfigChange
from shellwego.protocol.public.deployments import (
    BuildOptions,
    Deployment,
    DeploymentCreate,
    DeploymentEvent,
    RegistryLogin,
)
from shellwego.protocol.public.images import ImageMapping
from shellwego.protocol.public.instances import Instance
from shellwego.protocol.public.logs import LogEntry
from shellwego.protocol.public.nodes import Node
from shellwego.protocol.public.organisations import Organisation, OrganisationCreate, User, UserCreate
from shellwego.protocol.public.problems import FieldProblem, Problem
from shellwego.protocol.public.releases import Health, ProcessShape, Release, ResourceAmounts
from shellwego.protocol.public.sources import Source
from shellwego.protocol.public.status import CloudStatus, HealthAnswer, HealthPart
from shellwego.protocol.public.tokens import Token, TokenCreate, TokenCreated

__all__ = [
    "Answer",
    "App",
    "AppCreate",
    "AppUpdate",
    "BuildOptions",
    "CloudStatus",
    "Config",
    "ConfigChange",
    "Count",
    "Deployment",
    "DeploymentCreate",
    "DeploymentEvent",
    "FieldProblem",
    "Health",
    "HealthAnswer",
    "HealthPart",
    "ImageMapping",
    "Instance",
    "LogEntry",
    "Login",
    "Me",
    "Name",
    "Node",
    "Organisation",
    "OrganisationCreate",
    "Page",
    "Problem",
    "Process",
    "ProcessShape",
    "ProcessStatus",
    "Refresh",
    "RegistryLogin",
    "Release",
    "Request",
    "ResourceAmounts",
    "Session",
    "Source",
    "Text",
    "Token",
    "TokenCreate",
    "TokenCreated",
    "User",
    "UserCreate",
]
