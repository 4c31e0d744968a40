"""v1's credential classes: accepted where scripts pass them; a Runyard server asks for its token only."""

from typing import Any


class InteractiveLoginAuthentication:
    """Opens no browser: the token is found as the rest of the SDK finds it."""

    def __init__(self, force: bool = False, tenant_id: Any = None, cloud: Any = None, **_: Any) -> None:
        self.tenant_id = tenant_id


class ServicePrincipalAuthentication:
    """Its id and secret are not kept and not sent: they belong to another service."""

    def __init__(self, tenant_id: str, service_principal_id: str, service_principal_password: str, **_: Any) -> None:
        self.tenant_id = tenant_id
        self.service_principal_id = service_principal_id
