"""What the local Hub keeps: bare git repositories, LFS files, and who may write."""

import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
import threading
import time
import zlib
from pathlib import Path

TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
LFS_MIN = 10 * 1024 * 1024
LFS_NAMES = """7z arrow avro bin bz2 ckpt ftz gz h5 joblib model msgpack npy npz onnx ot parquet pb pickle pkl pt pth
    rar safetensors tar tflite tgz wasm xz zip zst mp3 mp4 flac wav ogg png jpg jpeg webp gif"""
LFS_EXT = LFS_NAMES.split()
ATTRS = "".join(f"*.{e} filter=lfs diff=lfs merge=lfs -text\n" for e in LFS_EXT).encode()
POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n\Z")
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
LOCK = threading.RLock()


class HubError(Exception):
    def __init__(self, status, message, code=None, **headers):
        self.status, self.message = status, message
        self.headers = {
            "X-Error-Message": message,
            **({"X-Error-Code": code} if code else {}),
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".tmp-", delete=False) as f:
        f.write(data)
    os.replace(f.name, path)


def iso(t):
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(t))


class Repo:
    """A bare git repository, loose objects only."""

    def __init__(self, hub, kind, full):
        self.hub, self.kind, self.full, self.dir = hub, kind, full, hub.root / kind / full
        self.meta = json.loads((self.dir / "hub.json").read_text())

    @classmethod
    def create(cls, hub, kind, full, private, user):
        d = hub.root / kind / full
        put(d / "HEAD", b"ref: refs/heads/main\n")
        put(d / "hub.json", json.dumps({"private": private, "created": time.time()}).encode())
        put(d / "config", b"[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n")
        (d / "refs" / "tags").mkdir(parents=True, exist_ok=True)
        r = cls(hub, kind, full)
        r.set_ref("refs/heads/main", r.commit({".gitattributes": r.write("blob", ATTRS)}, None, "initial commit", user))
        return r

    def write(self, kind, data):
        raw = b"%s %d\0" % (kind.encode(), len(data)) + data
        sha = hashlib.sha1(raw).hexdigest()
        if not self.obj(sha).exists():
            put(self.obj(sha), zlib.compress(raw))
        return sha

    def obj(self, sha):
        return self.dir / "objects" / sha[:2] / sha[2:]

    def read(self, sha):
        head, data = zlib.decompress(self.obj(sha).read_bytes()).split(b"\0", 1)
        return head.split()[0].decode(), data

    def write_tree(self, files):
        entries, subs = [], {}
        for path, sha in files.items():
            top, _, rest = path.partition("/")
            if rest:
                subs.setdefault(top, {})[rest] = sha
            else:
                entries.append((top.encode(), b"100644", sha, top.encode()))
        for top, sub in subs.items():
            entries.append((top.encode() + b"/", b"40000", self.write_tree(sub), top.encode()))
        return self.write("tree", b"".join(m + b" " + n + b"\0" + bytes.fromhex(s) for _, m, s, n in sorted(entries)))

    def walk(self, tree, prefix=""):
        """{path: (type, object id)} of a tree, directories included."""
        data, out = self.read(tree)[1], {}
        while data:
            head, data = data.split(b"\0", 1)
            mode, name = head.split(b" ", 1)
            sha, data, path = data[:20].hex(), data[20:], prefix + name.decode()
            out[path] = ("directory" if mode == b"40000" else "file", sha)
            if mode == b"40000":
                out.update(self.walk(sha, path + "/"))
        return out

    def commit(self, files, parent, message, user, description=""):
        who = f"{user} <{user}@users.noreply.localhost> {int(time.time())} +0000"
        return self.write(
            "commit",
            (
                f"tree {self.write_tree(files)}\n"
                + (f"parent {parent}\n" if parent else "")
                + f"author {who}\ncommitter {who}\n\n{message}\n"
                + (f"\n{description}\n" if description else "")
            ).encode(),
        )

    def info(self, sha):
        head, _, msg = self.read(sha)[1].decode().partition("\n\n")
        h = dict(x.split(" ", 1) for x in head.split("\n"))
        name, when = re.match(r"(.*) <.*> (\d+) ", h["author"]).groups()
        return {
            "id": sha,
            "tree": h["tree"],
            "parent": h.get("parent"),
            "user": name,
            "time": int(when),
            "title": msg.split("\n")[0],
            "message": msg.partition("\n")[2].strip(),
        }

    def history(self, sha):
        while sha:
            i = self.info(sha)
            yield i
            sha = i["parent"]

    def refs(self, kind):
        d = self.dir / "refs" / kind
        return {
            str(p.relative_to(d)): p.read_text().strip()
            for p in sorted(d.rglob("*"))
            if p.is_file() and p.name[:5] != ".tmp-"
        }

    def set_ref(self, ref, sha):
        put(self.dir / ref, sha.encode() + b"\n")

    def resolve(self, rev):
        for kind in ("heads", "tags"):
            if sha := self.refs(kind).get(rev.removeprefix(f"refs/{kind}/")):
                return sha
        if re.fullmatch(r"[0-9a-f]{40}", rev) and self.obj(rev).exists() and self.read(rev)[0] == "commit":
            return rev
        raise HubError(404, f"Invalid rev id: {rev}", "RevisionNotFound")

    def files(self, sha):
        return self.walk(self.info(sha)["tree"])

    def entry(self, path, kind, oid):
        e = {"type": kind, "oid": oid, "size": 0, "path": path}
        if kind == "file":
            data = self.read(oid)[1]
            p = POINTER.match(data)
            e["size"] = int(p[2]) if p else len(data)
            if p:
                e["lfs"] = {"oid": p[1].decode(), "size": int(p[2]), "pointerSize": len(data)}
        return e


class Hub:
    def __init__(self, root):
        self.root, self.key = Path(root).resolve(), secrets.token_bytes(32)
        self.user = os.environ.get("LOCAL_HUB_USER", "user")
        self.namespaces = {self.user, *filter(None, os.environ.get("LOCAL_HUB_ORGS", "").split(","))}
        self.tokens = {os.environ["LOCAL_HUB_TOKEN"]: "write"}
        if os.environ.get("LOCAL_HUB_READ_TOKEN"):
            self.tokens[os.environ["LOCAL_HUB_READ_TOKEN"]] = "read"

    def lfs(self, oid):
        return self.root / "lfs" / oid[:2] / oid[2:4] / oid

    def sign(self, *parts):
        return hmac.new(self.key, "|".join(map(str, parts)).encode(), "sha256").hexdigest()
