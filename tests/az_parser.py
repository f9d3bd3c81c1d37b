"""Reads az command lines, a JSON list each on standard input, with the Azure CLI's own parser; runs in its environment.

Answers each with a line: nothing, or what the parser says against it.
"""

import contextlib
import io
import json
import sys

from azure.cli.core import get_default_cli


def complaint(arguments):
    cli = get_default_cli()
    invocation = cli.invocation_cls(cli_ctx=cli, parser_cls=cli.parser_cls, commands_loader_cls=cli.commands_loader_cls,
                                    help_cls=cli.help_cls)
    cli.invocation = invocation
    loader = invocation.commands_loader
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            loader.load_command_table(arguments)
            command = invocation._rudimentary_get_command(arguments)
            cli.invocation.data["command_string"] = command
            loader.load_arguments(command)
            loader.command_table = {command: loader.command_table[command]}
            invocation.parser.cli_ctx = cli
            invocation.parser.load_command_table(loader)
            invocation.parser.parse_args(arguments)
    except (SystemExit, Exception) as error:
        return " ".join((said.getvalue() or repr(error)).split()) or repr(error)
    return ""


for line in sys.stdin:
    print(complaint(json.loads(line)), flush=True)
