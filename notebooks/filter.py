"""Git's filter for notebooks (CONTRIBUTING.md): takes what Jupyter saved after a session, gives it the committed outputs, counts and metadata, cell by cell, so
that a diff shows what somebody wrote. What `make readme` puts in has no interactive plots, and passes as it is.

    filter.py FILE <saved >cleaned
"""

import json
import subprocess
import sys


def cleaned(saved, committed):
    saved["metadata"] = committed["metadata"]
    known = {"".join(cell["source"]): cell for cell in committed["cells"]}
    for cell in saved["cells"]:
        before = known.get("".join(cell["source"]), {})
        cell["metadata"] = before.get("metadata", {})
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = before.get("outputs", []), before.get("execution_count")
    # As Jupyter writes it.
    return json.dumps(saved, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def main():
    text = sys.stdin.buffer.read().decode()
    committed = subprocess.run(["git", "show", f"HEAD:{sys.argv[1]}"], capture_output=True)
    if '"application/vnd.plotly.v1+json"' in text and committed.returncode == 0:
        text = cleaned(json.loads(text), json.loads(committed.stdout))
    sys.stdout.buffer.write(text.encode())


if __name__ == "__main__":
    main()
