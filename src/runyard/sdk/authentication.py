"""v1's credential classes: accepted where scripts pass them; a Runyard server asks for its token only."""

from typing import Any, Optional


class InteractiveLoginAuthentication:
    """Opens no browser: the token is found as the rest of the SDK finds it."""

    def __init__(self, force: bool = False, tenant_id: Any = None, cloud: Any = None, **_: Any) -> None:
        self.tenant_id = tenant_id


class ServicePrincipalAuthentication:
    """Its id and secret are not sent, and the secret is not kept: they belong to another service.

    In 2018 they were its ``username`` and ``password``.
    """

    def __init__(
        self,
        tenant_id: str,
        service_principal_id: Optional[str] = None,
        service_principal_password: Optional[str] = None,
        username: Optional[str] = None,
        password: Optional[str] = None,
        **_: Any,
    ) -> None:
        self.tenant_id = tenant_id
        self.service_principal_id = service_principal_id if service_principal_id is not None else username
        if self.service_principal_id is None or (service_principal_password is None and password is None):
            raise TypeError(f"{type(self).__name__}() needs service_principal_id and service_principal_password")
