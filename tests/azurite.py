"""azurite.py ENDPOINT ACCOUNT KEY CONTAINER: makes a container, signing by itself (standard library only)."""

import base64, hashlib, hmac, sys, urllib.request
from email.utils import formatdate
from urllib.parse import urlsplit

endpoint, account, key, container = sys.argv[1:]
headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
lines = ["PUT"] + [""] * 11 + [f"{name}:{value}" for name, value in sorted(headers.items())]
lines += [f"/{account}{urlsplit(endpoint).path}/{container}", "restype:container"]
signature = hmac.new(base64.b64decode(key), "\n".join(lines).encode(), hashlib.sha256).digest()
headers["authorization"] = f"SharedKey {account}:{base64.b64encode(signature).decode()}"
url = f"{endpoint}/{container}?restype=container"
urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers, data=None))
