"""The names of commands that ``--check`` knows are those that the agent registers."""

from typing import Any, cast

import pytest

from greenagent.jobs.catalogue import COMMANDS, fill_catalogue
from greenagent.jobs.launcher import Catalogue


@pytest.mark.parametrize("with_store", [True, False])
def test_every_registered_command_has_its_name(with_store: bool) -> None:
    class Part:
        """Registering asks nothing of the parts but to be there."""

        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    part = cast(Any, Part())
    catalogue = Catalogue()
    fill_catalogue(
        catalogue,
        jobs=part,
        store=part if with_store else None,
        meter=part,
        settings=part.settings,
        restart=part.restart,
        reboot=part.reboot,
        fetch_script=part.fetch,
    )
    names = {"execute", *catalogue.builtins, *catalogue.externals}
    assert names == COMMANDS - (set() if with_store else {"get_msgs", "del_msgs"})
