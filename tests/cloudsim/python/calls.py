"""Holds calls that a simulator has logged, in a file of JSON lines, against the providers' own models of their interfaces."""

import json
import sys
from pathlib import Path

calls = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
found, count = [], 0
for call in calls:
    # of whoever is not known no more is kept than the name of the call, and logins are the vendors' own
    if call["service"] in ("azure-login", "azure-identity") or not {"query", "params", "http", "body"} & call.keys():
        continue
    if call["service"].startswith("azure-"):
        from azure_judge import request
    else:
        from judge import request
    request(call, found)
    count += 1
if found:
    sys.exit("\n".join(sorted(set(found))))
print(f"{count} requests fit the models")
