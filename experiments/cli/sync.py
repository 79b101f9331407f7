"""`scaling sync`: take results from a folder to a bucket, or bring them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import tyro

from analysis.text import counted
from experiments.cli.app import Failed, app
from experiments.cli.output import TO_TERMINAL, Outputs
from experiments.cli.text import few, say
from scaling.store.records import Refusal

if TYPE_CHECKING:
    from scaling.store.bucket.sync import Synced

From = Annotated[
    tyro.conf.Positional[str], tyro.conf.arg(metavar="FROM", help="The results of one study.")
]
To = Annotated[
    tyro.conf.Positional[str],
    tyro.conf.arg(metavar="TO", help="Where to; one of the two is an address."),
]


@app.command
def sync(source: From, target: To, /, *, output: Outputs = TO_TERMINAL) -> None:
    """Take the results of a study from a folder to a bucket, or bring them back.

    Every run is taken whole and verified, with its checkpoints; fits, figures and logs come along.
    What is further in TO than in FROM stays as it is there, and nothing is deleted in either. Stop
    the workers at both places first. If the command is interrupted, give it again.

        scaling sync results/quickstart s3://bucket/runs/quickstart
        scaling sync s3://bucket/runs/quickstart results/quickstart
    """
    from dataclasses import asdict

    from experiments.cli.progress import Taking
    from scaling.store import table
    from scaling.store.bucket.bucket import Bucket
    from scaling.store.bucket.sync import download, upload
    from scaling.store.folder import Folder
    from scaling.store.results import results_at

    places = results_at(source), results_at(target)
    with Taking() as show:
        match places:
            case Folder(), Bucket():
                done = upload(*places, show)
            case Bucket(), Folder():
                done = download(*places, show)
            case _:
                raise Refusal(
                    f"{source} and {target}: one has to be a folder and the other an address, "
                    "such as s3://bucket/runs/quickstart."
                )
    table.publish_table(places[1])
    output.write(asdict(done))
    say(_text(done, target))
    if done.damaged:
        raise Failed(
            f"{counted(len(done.damaged), 'run')} of {source} could not be taken, and "
            f"{'stays' if len(done.damaged) == 1 else 'stay'} there"
        )


def _text(done: Synced, target: str) -> str:
    lines = [f"{counted(len(done.taken), 'run')} → {target}"]
    if done.kept:
        lines.append(f"{counted(len(done.kept), 'run')} there already, as far or further")
    if done.files:
        lines.append(f"{counted(len(done.files), 'other file')}: {few(done.files)}")
    if done.differ:
        lines.append(f"other there, and left as they are: {few(done.differ)}")
    lines += (f"not taken: {why}" for why in done.damaged.values())
    return "\n".join(lines)
