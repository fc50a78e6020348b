"""Files of a package of the npm registry, without npm."""

import base64
import hashlib
import io
import sys
import tarfile
import urllib.request


def fetch(tarball, sha512, files, folder):
    """Puts files of a tarball, from their paths in the package to names, into a folder, unless they are there already."""
    if all((folder / name).is_file() for name in files.values()):
        return
    print(f"== {tarball.split('/')[-1]} from the npm registry", flush=True)
    try:
        data = urllib.request.urlopen(tarball, timeout=60).read()
    except OSError as error:
        sys.exit(f"{tarball} cannot be fetched ({error}); it is needed once, then its files are kept in {folder}")
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != sha512:
        sys.exit(f"{tarball}: the checksum is not the expected one, sha512-{sha512}")
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for path, name in files.items():
            part = folder / f"{name}.part"
            part.write_bytes(archive.extractfile(f"package/{path}").read())
            part.replace(folder / name)
