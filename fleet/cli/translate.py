"""`fleet translate`: one translation through the balancer, as a user would get it."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.cli.options import Inventories, Json


def translate(
    text: Annotated[str, typer.Argument(help="What to translate.", show_default=False)],
    to: Annotated[str, typer.Option("--to", help="The target language, as the page names it.")] = "Chinese",
    url: Annotated[
        str, typer.Option("--url", help="The service. Default: the inventory's balancer.", show_default=False)
    ] = "",
    api: Annotated[str, typer.Option("--api", help="The page's API endpoint.")] = "translate",
    deadline: Annotated[float, typer.Option("--deadline", min=1, help="Seconds to wait.")] = 60.0,
    inventory: Inventories = None,
    json: Json = False,
) -> None:
    """Translate a text through the balancer.

    Where its gateway asks for an API key, the one in FLEET_API_KEY is sent. SSL_CERT_FILE names the file of
    certificate authorities to trust instead of the system's.
    """
    from fleet.cli.options import open_inventory, print_json
    from fleet.errors import InputError
    from fleet.provision.golden import Golden, service_url
    from fleet.provision.golden import translate as ask

    where = url or service_url(open_inventory(inventory))
    if where is None:
        raise InputError("the inventory has no balancer", remedy="name the service with --url")
    answer = ask(where, Golden(inputs=(text, to), contains="", api=api, deadline=deadline))
    if json:
        print_json({"text": text, "answer": answer.text, "seconds": round(answer.seconds, 3), "url": where})
    else:
        typer.echo(answer.text)
