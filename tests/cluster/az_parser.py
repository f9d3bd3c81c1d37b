"""Reads az command lines, a JSON list each on standard input, with the Azure CLI's own parser; runs in its environment.

Answers each with a line: what the parser says against it, or nothing. ``hdinsight create`` also goes through the CLI's
own function, with a stand-in for Azure: its line is what would be sent, as JSON.
"""

import contextlib
import inspect
import io
import json
import os
import sys
from unittest import mock

from azure.cli.core import get_default_cli
from azure.cli.core.commands import _expand_file_prefixed_files

SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"


def answer(arguments):
    cli = get_default_cli()
    invocation = cli.invocation_cls(cli_ctx=cli, parser_cls=cli.parser_cls, commands_loader_cls=cli.commands_loader_cls,
                                    help_cls=cli.help_cls)
    cli.invocation = invocation
    loader = invocation.commands_loader
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            arguments = _expand_file_prefixed_files(arguments)
            loader.load_command_table(arguments)
            command = invocation._rudimentary_get_command(arguments)
            cli.invocation.data["command_string"] = command
            loader.load_arguments(command)
            loader.command_table = {command: loader.command_table[command]}
            invocation.parser.cli_ctx = cli
            invocation.parser.load_command_table(loader)
            namespace = invocation.parser.parse_args(arguments)
            return json.dumps(sent(invocation, namespace)) if command == "hdinsight create" else ""
    except (SystemExit, Exception) as error:
        return " ".join((said.getvalue() or repr(error)).split()) or repr(error)


def sent(invocation, namespace):
    """What the CLI would ask of Azure for a cluster."""
    from azure.cli.command_modules.hdinsight import _validators, custom, util
    from azure.mgmt.hdinsight import models
    from azure.mgmt.hdinsight._utils.serialization import Serializer

    class Client:
        def begin_create(self, group, name, parameters):
            known = {name: kind for name, kind in vars(models).items() if isinstance(kind, type)}
            return {"name": name, **Serializer(known).body(parameters, "ClusterCreateParametersExtended")}

    def resource_id(cli_ctx, resource_type, name):
        return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/group/providers/{resource_type}/{name}"

    with mock.patch.object(_validators, "get_resource_id_by_name", resource_id), \
            mock.patch.object(util, "get_storage_account_endpoint", lambda *_: "account.dfs.core.windows.net"):
        invocation._validate_arg_level(namespace)
        known = set(inspect.signature(custom.create_cluster).parameters) - {"cmd", "client"}
        return custom.create_cluster(namespace._cmd, Client(), **{name: value for name, value in vars(namespace).items()
                                                           if name in known})


for line in sys.stdin:
    # Where create_cluster.sh hands the password over.
    read, write = os.pipe()
    os.write(write, os.environ.get("PASSWORD", "").encode())
    os.close(write)
    if read != 3:
        os.dup2(read, 3)
        os.close(read)
    print(answer(json.loads(line)), flush=True)
