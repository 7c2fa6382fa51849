"""Answers of the local Hub about files: trees, downloads, LFS, and commits."""

import base64
import binascii
import fnmatch
import hashlib
import hmac
import json
import os
import re
import tempfile
import time

from local_hub_store import LFS_EXT, LFS_MIN, LOCK, POINTER, HubError

try:
    import yaml  # only for cardData/tags in model_info; comes with huggingface_hub
except ImportError:
    yaml = None


class FileEndpoints:
    """A part of the request handler, which has the repositories and the replies."""

    def tree(self, t, repo, rev, path=None):
        r = self.repo(t, repo)
        sha = r.resolve(rev)
        files = r.files(sha)
        path = (path or "").strip("/")
        if path and files.get(path, ("", ""))[0] != "directory":
            raise HubError(404, f"{path} does not exist on {rev}", "EntryNotFound", X_Repo_Commit=sha)
        pre, deep = path + "/" if path else "", self.query.get("recursive", "").lower() in ("1", "true")
        self.reply(
            [r.entry(p, *v) for p, v in files.items() if p.startswith(pre) and (deep or "/" not in p[len(pre) :])],
            **{"X-Repo-Commit": sha},
        )

    def paths_info(self, t, repo, rev):
        r, b = self.repo(t, repo), self.body()
        sha = r.resolve(rev)
        files = r.files(sha)
        self.reply(
            [r.entry(p, *files[p]) for p in (x.strip("/") for x in b.get("paths") or []) if p in files],
            **{"X-Repo-Commit": sha},
        )

    def resolve(self, repo, rev, path, t=None):
        r = self.repo(t, repo)
        sha = r.resolve(rev)
        kind, oid = r.files(sha).get(path, (None, None))
        if kind != "file":
            raise HubError(404, "Entry not found", "EntryNotFound", X_Repo_Commit=sha)
        data = r.read(oid)[1]
        p = POINTER.match(data)
        h = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if not p:
            return self.ranged(data, len(data), {**h, "ETag": f'"{oid}"', "Content-Type": "text/plain; charset=utf-8"})
        lfs, exp = p[1].decode(), int(time.time()) + 3600
        # Like the Hub: a redirect to a signed URL on another host ("localhost" stands for the CDN), so the client must
        # drop its token.
        cdn = (
            self.base.replace("127.0.0.1", "localhost")
            if "127.0.0.1" in self.base
            else self.base.replace("localhost", "127.0.0.1")
        )
        self.send(
            302,
            {
                **h,
                "Location": f"{cdn}/_lfs/{lfs}?exp={exp}&sig={self.server.hub.sign('get', lfs, exp)}",
                "ETag": f'"{oid}"',
                "X-Linked-ETag": f'"{lfs}"',
                "X-Linked-Size": int(p[2]),
                "Content-Length": 0,
            },
        )

    def ranged(self, data, size, headers):
        lo, hi, status = 0, size - 1, 200
        m = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if m and (m[1] or m[2]) and size:
            lo, hi = (int(m[1]), min(int(m[2] or hi), hi)) if m[1] else (max(size - int(m[2]), 0), hi)
            if lo > hi:
                return self.send(416, {"Content-Range": f"bytes */{size}", "Content-Length": 0})
            status = 206
            headers = {**headers, "Content-Range": f"bytes {lo}-{hi}/{size}"}
        headers = {**headers, "Content-Length": hi - lo + 1}
        if isinstance(data, bytes):
            return self.send(status, headers, data[lo : hi + 1])
        self.send(status, headers)
        data.seek(lo)
        left = hi - lo + 1 if self.command != "HEAD" else 0
        while left > 0 and (b := data.read(min(left, 1 << 20))):
            self.wfile.write(b)
            left -= len(b)

    def lfs_object(self, oid):
        q, op = self.query, {"GET": "get", "HEAD": "get", "PUT": "put"}[self.command]
        good = self.server.hub.sign(op, oid, q.get("exp"), *([q.get("size")] if op == "put" else []))
        if not hmac.compare_digest(good.encode(), q.get("sig", "").encode()) or int(q["exp"]) < time.time():
            raise HubError(403, "SignatureDoesNotMatch")
        f = self.server.hub.lfs(oid)
        if op == "get" and not f.exists():
            raise HubError(404, "NoSuchKey")
        if op == "get":
            with open(f, "rb") as fh:
                return self.ranged(
                    fh,
                    f.stat().st_size,
                    {"ETag": f'"{oid}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"},
                )
        h = hashlib.sha256()
        f.parent.mkdir(parents=True, exist_ok=True)  # an upload: keep it only if it is what was announced
        with tempfile.NamedTemporaryFile(dir=f.parent, delete=False) as tmp:
            while b := self.body_file.read(1 << 20):
                h.update(b)
                tmp.write(b)
        if h.hexdigest() != oid or self.length != int(q["size"]):
            os.unlink(tmp.name)
            raise HubError(
                400, f"Content is sha256 {h.hexdigest()} ({self.length} bytes), not {oid} ({q['size']} bytes)"
            )
        os.replace(tmp.name, f)
        self.send(200, {"ETag": f'"{oid}"', "Content-Length": 0})

    def lfs_batch(self, repo, t=None):
        b = self.body()
        up = b.get("operation") == "upload"
        self.repo(t, repo, write=up)
        out = []
        for o in b.get("objects", []):
            oid, size, exp = str(o.get("oid")), int(o.get("size", -1)), int(time.time()) + 3600
            if not re.fullmatch(r"[0-9a-f]{64}", oid) or size < 0:
                raise HubError(422, "Bad LFS object")
            e, have = {"oid": oid, "size": size}, self.server.hub.lfs(oid).exists()
            if up and not have:
                signature = self.server.hub.sign("put", oid, exp, size)
                e["actions"] = {
                    "upload": {"href": f"{self.base}/_lfs/{oid}?exp={exp}&size={size}&sig={signature}"},
                    "verify": {"href": f"{self.base}/{t or ''}{repo}.git/info/lfs/objects/verify"},
                }
            elif not up and have:
                e["actions"] = {
                    "download": {
                        "href": f"{self.base}/_lfs/{oid}?exp={exp}&sig={self.server.hub.sign('get', oid, exp)}"
                    }
                }
            elif not up:
                e["error"] = {"code": 404, "message": "Object does not exist"}
            out.append(e)
        self.reply({"transfer": "basic", "objects": out})

    def lfs_verify(self, repo, t=None):
        self.repo(t, repo, write=True)
        b = self.body()
        f = self.server.hub.lfs(str(b.get("oid")))
        if not re.fullmatch(r"[0-9a-f]{64}", str(b.get("oid"))) or not f.exists() or f.stat().st_size != b.get("size"):
            raise HubError(404, "LFS object missing or of another size")
        self.reply({})

    def preupload(self, t, repo, rev):
        r, b = self.repo(t, repo, write=True), self.body()
        files = r.files(r.resolve(rev))
        out = []
        ignore = [g.strip().strip("/") for g in b.get("gitIgnore", "").split("\n") if g.strip() and g[0] not in "#!"]
        for f in b.get("files", []):
            p, sample = f["path"], base64.b64decode(f.get("sample", ""))
            k, oid = files.get(p, (None, None))
            e = r.entry(p, k, oid) if k == "file" else {}
            lfs = p.rsplit(".", 1)[-1].lower() in LFS_EXT or f.get("size", 0) > LFS_MIN or b"\0" in sample
            out.append(
                {
                    "path": p,
                    "uploadMode": "lfs" if lfs else "regular",
                    "oid": e.get("lfs", e).get("oid"),
                    "shouldIgnore": any(
                        fnmatch.fnmatch(p, g) or fnmatch.fnmatch(p.split("/")[-1], g) or p.startswith(g + "/")
                        for g in ignore
                    ),
                }
            )
        self.reply({"files": out})

    def commit(self, t, repo, rev):
        if self.query.get("create_pr"):
            raise HubError(403, "Pull requests are not supported by this server")
        with LOCK:
            r = self.repo(t, repo, write=True)
            rev = rev.removeprefix("refs/heads/")
            tip = r.refs("heads").get(rev)
            head = {}
            if tip is None:
                raise HubError(404, f"Invalid rev id: {rev}", "RevisionNotFound")
            files = {p: o for p, (k, o) in r.files(tip).items() if k == "file"}
            for line in self.body_file:
                if not line.strip():
                    continue
                try:
                    op = json.loads(line)
                    key, v = op["key"], op["value"]
                except (ValueError, KeyError, TypeError):
                    raise HubError(400, "Malformed NDJSON line") from None
                if key == "header":
                    head = v
                    continue
                p = v.get("path", "").rstrip("/")
                if not p or p.startswith("/") or any(x in ("", ".", "..", ".git") for x in p.split("/")):
                    raise HubError(400, f"Invalid path: {p!r}")
                if key == "file":
                    try:
                        c = (
                            base64.b64decode(v["content"], validate=True)
                            if v.get("encoding") == "base64"
                            else v["content"].encode()
                        )
                    except (binascii.Error, KeyError):
                        raise HubError(400, f"Bad content for {p}") from None
                    files[p] = r.write("blob", c)
                elif key == "lfsFile":
                    f = self.server.hub.lfs(str(v.get("oid")))
                    if (
                        not re.fullmatch(r"[0-9a-f]{64}", str(v.get("oid")))
                        or not f.exists()
                        or v.get("size", f.stat().st_size) != f.stat().st_size
                    ):
                        raise HubError(400, f"LFS object of {p} was not uploaded, or has another size")
                    files[p] = r.write(
                        "blob",
                        b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n"
                        % (v["oid"].encode(), f.stat().st_size),
                    )
                elif key == "deletedFile":
                    if files.pop(p, None) is None:
                        raise HubError(404, f"{p} does not exist", "EntryNotFound")
                elif key == "deletedFolder":
                    files = {q: o for q, o in files.items() if not q.startswith(p + "/")}
                else:
                    raise HubError(400, f"Unknown operation {key}")
            if not head.get("summary"):
                raise HubError(400, "A commit needs a summary")
            if head.get("parentCommit") not in (None, tip):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            if any(q.startswith(p + "/") for p in files for q in files):
                raise HubError(400, "A path is both a file and a folder")
            sha = r.commit(files, tip, head["summary"], self.server.hub.user, head.get("description", ""))
            r.set_ref(f"refs/heads/{rev}", sha)
        self.reply(
            {
                "success": True,
                "commitOid": sha,
                "commitUrl": f"{self.base}/{'' if t == 'models' else t + '/'}{repo}/commit/{sha}",
                "hookOutput": "",
            }
        )

    def validate_yaml(self):
        errors, m = [], re.match(r"---\r?\n(.*?)\r?\n---", self.body().get("content", ""), re.S)
        try:
            licence = (yaml.safe_load(m[1]) or {}).get("license", "mit") if yaml and m else "mit"
            if not re.fullmatch(r"[a-z0-9.-]+", str(licence)):
                errors = [{"message": '"license" must be one of [apache-2.0, mit, ...]'}]
        except yaml.YAMLError as e:
            errors = [{"message": str(e)}]
        self.reply({"errors": errors, "warnings": []}, 400 if errors else 200)
