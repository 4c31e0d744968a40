"""``runyard``: the command line, its errors as one sentence and its exit codes.

0 done; 1 refused or failed; 2 the words are wrong; 3 no server; 4 the followed run did not complete; 130 interrupted.
"""

import sys

import typer

from runyard import __version__
from runyard.cli import compute, datasets, environments, models, run, server, services, snapshot, token, workspaces
from runyard.errors import RunyardError, ServerUnreachableError

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)
app.command()(server.up)
app.command()(server.down)
app.command()(server.status)
app.command()(server.doctor)
app.command("open")(server.open_page)
app.command()(run.why)
app.command()(snapshot.snapshot)
app.command("deploy")(services.deploy_service)
app.add_typer(run.commands, name="run")
app.add_typer(compute.commands, name="compute")
app.add_typer(compute.commands, name="cluster", hidden=True)
app.add_typer(workspaces.commands, name="workspace")
app.add_typer(datasets.commands, name="dataset")
app.add_typer(environments.commands, name="env")
app.add_typer(models.commands, name="model")
app.add_typer(services.commands, name="service")
app.add_typer(token.commands, name="token")


@app.callback(invoke_without_command=True)
def version(show_version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    """Train, track, register, deploy: the Azure Machine Learning SDK v1 workflow on machines you own."""
    if show_version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """The entry point."""
    try:
        app()
    except ServerUnreachableError as error:
        _end(str(error), 3)
    except RunyardError as error:
        _end(str(error), 1)
    except KeyboardInterrupt:
        _end("interrupted; the run, if any, goes on", 130)
    except BrokenPipeError:
        sys.stderr.close()


def _end(sentence: str, code: int) -> None:
    print(f"runyard: {sentence}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
