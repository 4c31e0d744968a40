"""What a person should know of a run's data: said in the run's log, and kept with its details."""

from runyard.client.http import Server
from runyard.errors import RunyardError
from runyard.protocol.lineage import Sentences
from runyard.runner.folder import AttemptFolder


def warn(folder: AttemptFolder, server: Server, sentence: str) -> None:
    """Say it in both places; a server that cannot take it now costs the run no time."""
    folder.note(sentence)
    plan = folder.plan
    try:
        server.call("add_warnings", Sentences((sentence,)), workspace=plan.workspace, run_id=plan.run_id)
    except RunyardError as error:
        folder.say(f"a warning could not be kept: {error}")
