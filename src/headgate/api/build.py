"""Puts the endpoints together. The list of routes is the whole surface of the server."""

from headgate.api.application import Application, Route
from headgate.api.openapi import openapi_route
from headgate.api.routes import (
    chat,
    completions,
    embeddings,
    export,
    health,
    keys,
    models,
    organization_costs,
    organization_usage,
    usage,
)
from headgate.api.server import Server
from headgate.api.services import Services
from headgate.api.settings import ServerSettings

ROUTES: tuple[Route, ...] = (
    *chat.ROUTES,
    *completions.ROUTES,
    *embeddings.ROUTES,
    *models.ROUTES,
    *keys.ROUTES,
    *usage.ROUTES,
    *export.ROUTES,
    *organization_usage.ROUTES,
    *organization_costs.ROUTES,
    *health.ROUTES,
)


def build(services: Services, settings: ServerSettings) -> Server:
    """A server over the services, not yet listening."""
    routes = (*ROUTES, openapi_route(ROUTES, services.version))
    application = Application(routes, services, settings)
    return Server(application.handle, application.refusal, settings)
