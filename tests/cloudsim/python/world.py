"""A simulator of one's own: started, spoken to, ended."""

import json
import os
import random
import subprocess
import tempfile
import urllib.request

import boto3
from botocore.config import Config

BLOCK = 512 << 10
PROGRAM = os.environ["CLOUDSIM"]


class Sim:
    def __init__(self, *options, data=None):
        self.folder = tempfile.TemporaryDirectory(prefix="cloudsim-")
        self.data = data or os.path.join(self.folder.name, "data")
        self.options = options
        self.start()

    def start(self):
        # on a leash: a script that is killed leaves nothing running
        command = [PROGRAM, "--leash", "--data", self.data, *self.options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line, "the simulator did not start"
        self.greeting = json.loads(line)
        self.accounts = {it["account"]: it for it in self.greeting["accounts"]}
        self.main, self.other = sorted(self.accounts)

    def end(self, kill=False):
        self.process.kill() if kill else self.process.terminate()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end(kill=True)
        self.folder.cleanup()

    def control(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.greeting['control']}/{path}", data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as why:
            raise AssertionError(f"{method} {path}: {why.read().decode()}") from None

    def advance(self, seconds):
        return self.control("POST", "clock", {"advance": seconds})

    def settings(self, **changes):
        return self.control("PATCH", "settings", changes)

    def rule(self, operation, kind, about=None, nth=None, probability=None, seed=0, times=None, **fault):
        rule = {"operation": operation, "about": about, "nth": nth, "probability": probability, "seed": seed, "times": times}
        return self.control("POST", "rules", {**rule, "fault": {"kind": kind, **fault}})

    def client(self, service, region="eu-west-1", account=None, credentials=None, secret=None, endpoint=None, retries=0):
        keys = self.accounts[account or self.main]
        given = credentials or {"AccessKeyId": keys["access-key"], "SecretAccessKey": secret or keys["secret-key"]}
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=endpoint or self.greeting["regions"][region][service],
            aws_access_key_id=given["AccessKeyId"],
            aws_secret_access_key=given["SecretAccessKey"],
            aws_session_token=given.get("SessionToken"),
            config=Config(retries={"total_max_attempts": 1 + retries, "mode": "standard"}, read_timeout=120),
        )

    def image(self, blocks, size=None, seed=1):
        """A raw image file with random blocks at the given indexes."""
        path = os.path.join(self.folder.name, f"image-{len(os.listdir(self.folder.name))}")
        chance = random.Random(seed)
        with open(path, "wb") as file:
            file.truncate(size or (max(blocks) + 1) * BLOCK)
            for index in blocks:
                file.seek(index * BLOCK)
                file.write(chance.randbytes(BLOCK))
        return path

    def server(self, image, account=None, region="eu-west-1", **more):
        disks = image if isinstance(image, list) else [image]
        more = {"name": "web-1", **more}
        return self.control("POST", "servers", {"account": account or self.main, "region": region, "disks": disks, **more})
