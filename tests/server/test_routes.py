"""The route table against the handlers: what is declared is read, and what is read is declared."""

import inspect
import re
from types import ModuleType

import pytest

from runyard.protocol.routes import TABLE
from runyard.server.dispatch import HANDLERS

READ = re.compile(r"""(?:query\.get|call\.integer)\(\s*"(\w+)""")


@pytest.mark.parametrize("module", HANDLERS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_handlers_of_a_noun_read_exactly_the_query_parameters_that_its_routes_declare(module: ModuleType) -> None:
    mine = [route for route in TABLE if getattr(module, route.name, None) is not None]
    assert mine
    declared = {name for route in mine for name in route.query}
    assert set(READ.findall(inspect.getsource(module))) == declared
