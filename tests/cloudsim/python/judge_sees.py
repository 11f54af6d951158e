"""The judge of Azure's requests itself: a good one passes, and each way in which it is spoilt is found."""

import copy
import sys

from azure_judge import request

DISK = {
    "service": "azure-arm", "operation": "Disks_CreateOrUpdate", "method": "PUT",
    "path": "subscriptions/s/resourceGroups/prod/providers/Microsoft.Compute/disks/d", "query": {"api-version": "2024-03-02"},
    "headers": {"accept": "*/*", "host": "h"},
    "body": {
        "location": "westeurope", "sku": {"name": "Premium_LRS"}, "tags": {"a": "b"},
        "properties": {"creationData": {"createOption": "Upload", "uploadSizeBytes": 512}, "osType": "Linux"},
    },
}
PAGES = {
    "service": "azure-blob", "operation": "PutPage", "method": "PUT", "path": "md/x", "query": {"comp": "page", "sig": "s"},
    "headers": {"x-ms-version": "2021-12-02", "x-ms-page-write": "update", "x-ms-range": "bytes=0-511"},
}


def spoilt(line, change):
    line = copy.deepcopy(line)
    change(line)
    return line


SPOILT = [
    (DISK, lambda it: it["query"].update({"api-version": "2024-03-01"}), "there is none, but of"),
    (DISK, lambda it: it["query"].update({"$expand": "all"}), "no parameter $expand"),
    (DISK, lambda it: it["headers"].update({"if-none-match": "*"}), "no header if-none-match"),
    (DISK, lambda it: it.pop("body"), "a body is missing"),
    (DISK, lambda it: it["body"].pop("location"), "location: is required"),
    (DISK, lambda it: it["body"].update({"diskSizeGB": 1}), "no such member"),
    (DISK, lambda it: it["body"]["properties"].update({"diskSizeGB": "1"}), "is no int"),
    (DISK, lambda it: it["body"]["properties"].update({"diskState": "Reserved"}), "for the service to say"),
    (DISK, lambda it: it["body"]["properties"].update({"osType": "Plan9"}), "is none of"),
    (DISK, lambda it: it["body"]["properties"]["creationData"].pop("createOption"), "createOption: is required"),
    (DISK, lambda it: it["body"].update({"tags": {"a": 1}}), "is no str"),
    (DISK, lambda it: it["body"].update({"zones": "1"}), "is no list"),
    (PAGES, lambda it: it["headers"].pop("x-ms-version"), "x-ms-version is required"),
    (PAGES, lambda it: it["headers"].update({"x-ms-page-write": "append"}), "not one of"),
    (PAGES, lambda it: it["query"].update({"prevsnapshot": "p"}), "no parameter prevsnapshot"),
]


def main():
    found = []
    for good in (DISK, PAGES):
        request(good, found)
    assert not found, found
    for good, change, words in SPOILT:
        found = []
        request(spoilt(good, change), found)
        assert len(found) == 1 and words in found[0], (words, found)
    print(f"{len(SPOILT)} mistakes were seen")


sys.exit(main())
