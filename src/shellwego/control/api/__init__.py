"""HTTP in, HTTP out: one module per noun. `create_api` makes the application, `serve` listens."""

from shellwego.control.api.create import create_api
from shellwego.control.api.parts import AgentGateway, ApiParts, ApiSettings, Stream
from shellwego.control.api.serving import serve

__all__ = ["AgentGateway", "ApiParts", "ApiSettings", "Stream", "create_api", "serve"]
