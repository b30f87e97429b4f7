"""The command line. Each command is a module of `profiler.commands`, imported when it is called."""

from __future__ import annotations

import importlib
import keyword
import sys
from typing import Final

import click

from collectors.errors import CputaxError
from profiler import __version__

# name -> what `cputax --help` says; kept here so that help imports no command.
COMMANDS: Final = {
    "ps": "List the inference servers on this machine.",
    "attach": "Record a running server by PID, or start one and record it.",
    "analyze": "Say where the time of a capture, or of a foreign trace, went.",
    "import": "Turn traces of other tools into a capture.",
    "load": "Chat with a server as many users do, and measure each answer.",
    "doctor": "Find settings that cost silently, and what cputax may see here.",
    "pin": "Propose on which CPUs each process should run, and try whether it helps.",
    "selftest": "Measure this tool's own error on this machine.",
    "demo": "Start a small server, load it, record it and show the answer.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported on first use: ``--help`` must stay fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in the order a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        module = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        command: click.Command = importlib.import_module(f"profiler.commands.{module}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="cputax")
def cli() -> None:
    """Where does each second of an LLM request go on the CPU?

    cputax attaches to a running vLLM server by PID (no restart, no patch), records what its
    processes and threads do, and says which stage the time went to, who held the GIL, who waited
    for a CPU, and what tokenizing cost.

    \b
      cputax ps                     find the server's PID
      cputax attach PID -d 30s      record it and show the findings
      cputax analyze DIR            show everything again, or --json

    Exit codes: 0 done, 1 partial capture or a broken gate, 2 usage, 3 target, 4 permission,
    5 bad input file.
    """


def main() -> None:
    """Run the command line; errors made to be read are printed with their remedy."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except CputaxError as error:
        show_error(error)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)  # 128 + SIGINT, as shells do
    except BrokenPipeError:
        # The reader of our output left (``| head``); keep the interpreter's flush from complaining.
        sys.stderr.close()
        sys.exit(0)


def show_error(error: CputaxError) -> None:
    """Print one error the way all are printed."""
    click.echo(f"cputax: {error.message} [{error.slug}]", err=True)
    click.echo(f"  try: {error.remedy}", err=True)
