"""Holds calls that a simulator has logged, as JSON on standard input, against botocore's models."""

import json
import sys

from judge import request

calls = [it for it in json.load(sys.stdin) if it.get("status", 500) < 300]
found = []
for line in calls:
    request(line, found)
if found:
    sys.exit("\n".join(sorted(set(found))))
print(f"{len(calls)} requests fit the models")
