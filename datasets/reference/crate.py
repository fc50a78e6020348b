"""Writes ro-crate-metadata.json: the reference runs as a Process Run Crate, from runs.csv, records, weights and cards. Each run
is an action: the program, its data and settings, and the files that it gave. With --check it only says whether that is so."""

import csv
import gzip
import hashlib
import json
import struct
import sys
from datetime import datetime, timezone
from pathlib import Path

from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

HERE = Path(__file__).parent
DATA = {"MNIST": "http://yann.lecun.com/exdb/mnist/", "Fashion-MNIST": "https://github.com/zalandoresearch/fashion-mnist",
        "CIFAR-10": "https://www.cs.toronto.edu/~kriz/cifar.html"}
TYPES = {".csv": "text/csv", ".gz": "application/gzip", ".json": "application/json", ".md": "text/markdown", ".safetensors": "application/octet-stream"}
crate = ROCrate(version="1.1")
crate.metadata.extra_terms["sha256"] = "https://schema.org/sha256"  # newer than the context


def entity(kind, where, **properties):
    return crate.add(ContextEntity(crate, where, {"@type": kind} | properties))


def file(name, what):
    content = (HERE / name).read_bytes()
    facts = {"contentSize": str(len(content)), "sha256": hashlib.sha256(content).hexdigest(), "encodingFormat": TYPES[Path(name).suffix]}
    return crate.add_file(HERE / name, name, properties={"name": what} | facts)


def about(path):
    """What a record or a summary says about its run."""
    if path.suffix == ".json":
        return json.loads(path.read_text())
    with gzip.open(path) as record:
        (length,) = struct.unpack("<Q", record.read(8))
        return json.loads(json.loads(record.read(length))["__metadata__"]["about"])


licence = entity("CreativeWork", "https://spdx.org/licenses/MIT", name="MIT licence")
authors = entity("Organization", "#authors", name="The branchynet authors")
program = entity("SoftwareApplication", "#branchynet", name="branchynet", softwareVersion="0.1.0", license=licence)
data = {name: entity("CreativeWork", url, name=name, url=url) for name, url in DATA.items()}
file("runs.csv", "the runs: network, settings, seeds, what is kept, hours")
newest = 0
for line in csv.DictReader((HERE / "runs.csv").open(), delimiter=";"):
    first, _, last = line["seeds"].partition("-")
    for seed in range(int(first), int(last or first) + 1):
        name, summary = f"{line['run']}-{seed}", line["keeps"] == "summary"
        path = f"summaries/{name}.json" if summary else f"{name}.safetensors.gz"
        if not (HERE / path).exists():
            continue  # still to be made
        run, files = about(HERE / path), [file(path, f"{'summary' if summary else 'exit record'} of {name}")]
        if line["keeps"] == "weights" and seed == int(first):
            files += [file(f"weights/{line['run']}.{ending}", f"{what} of {name}") for ending, what in (("safetensors", "weights"), ("md", "model card"))]
        facts = {"name": name, "description": f"branchynet train {line['network']} {line['settings']} --seed {seed} (commit {run['commit']})"}
        if made := run.get("made"):
            newest, facts["endTime"] = max(newest, made), datetime.fromtimestamp(made, timezone.utc).isoformat()
        crate.root_dataset.append_to("mentions", entity("CreateAction", f"#{name}", instrument=program, agent=authors, object=data[run["data"]], result=files if len(files) > 1 else files[0], **facts))
crate.name, crate.license, crate.datePublished = "Reference runs of branchynet", licence, datetime.fromtimestamp(newest, timezone.utc)
crate.description = "Early-exit networks on MNIST, Fashion-MNIST and CIFAR-10: exit records, summaries, trained weights and model cards"
crate.root_dataset["author"] = authors
crate.root_dataset["conformsTo"] = entity("CreativeWork", "https://w3id.org/ro/wfrun/process/0.5", name="Process Run Crate", version="0.5")
path, text = HERE / "ro-crate-metadata.json", json.dumps(crate.metadata.generate(), indent=1) + "\n"
if "--check" not in sys.argv:
    path.write_text(text)
elif path.read_text() != text:
    sys.exit(f"{path} does not describe the files beside it: make crate")
