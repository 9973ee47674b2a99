"""Puts the endpoints together. The list of routes is the whole surface of the server."""

from headgate.api.application import Application, Route
from headgate.api.openapi import openapi_route
from headgate.api.routes import (
    admin_api_keys,
    audit_logs,
    calls,
    chat,
    completions,
    embeddings,
    engines,
    export,
    health,
    invoices,
    keys,
    kill_switches,
    model_permissions,
    models,
    organization_costs,
    organization_usage,
    passthrough,
    policies,
    project_api_keys,
    project_users,
    projects,
    rate_limits,
    rerank,
    service_accounts,
    spend_alerts,
    spend_limits,
    spend_stops,
    streams,
    usage,
    users,
)
from headgate.api.server import Server
from headgate.api.services import Services
from headgate.api.settings import ServerSettings

ROUTES: tuple[Route, ...] = (
    *chat.ROUTES,
    *completions.ROUTES,
    *embeddings.ROUTES,
    *rerank.ROUTES,
    *streams.ROUTES,
    *passthrough.ROUTES,
    *models.ROUTES,
    *keys.ROUTES,
    *usage.ROUTES,
    *export.ROUTES,
    *calls.ROUTES,
    *organization_usage.ROUTES,
    *organization_costs.ROUTES,
    *invoices.ROUTES,
    *projects.ROUTES,
    *project_users.ROUTES,
    *service_accounts.ROUTES,
    *project_api_keys.ROUTES,
    *users.ROUTES,
    *admin_api_keys.ROUTES,
    *rate_limits.ROUTES,
    *model_permissions.ROUTES,
    *spend_limits.ROUTES,
    *spend_alerts.ROUTES,
    *spend_stops.ROUTES,
    *kill_switches.ROUTES,
    *policies.ROUTES,
    *engines.ROUTES,
    *audit_logs.ROUTES,
    *health.ROUTES,
)


def build(services: Services, settings: ServerSettings) -> Server:
    """A server over the services, not yet listening."""
    routes = (*ROUTES, openapi_route(ROUTES, services.version))
    application = Application(routes, services, settings)
    return Server(application.handle, application.refusal, settings)
