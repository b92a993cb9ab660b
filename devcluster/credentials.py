"""Certificates, tokens and kubeconfigs of one cluster: made once, kept in its state folder, readable by root alone."""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path

from devcluster.paths import write_atomic
from devcluster.plan import API_SERVICE_ADDRESS, CLUSTER_DOMAIN, MAX_REAL_NODES, Plan
from devcluster.shell import run

VALID_DAYS = 3650

# token name -> user, groups
STATIC_USERS = {
    "admin": ("admin", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kube-proxy": ("system:kube-proxy", ""),
    "kwok": ("kwok", "system:masters"),
    "coredns": ("coredns", "devcluster:readers"),
}


def node_name(index: int) -> str:
    """Name of the real node with this index, counted from 1."""
    return f"node-{index}"


def ensure(plan: Plan) -> None:
    """Write whatever is missing; what exists is kept, so that issued tokens stay valid."""
    pki = plan.state / "pki"
    pki.mkdir(parents=True, exist_ok=True)
    pki.chmod(0o700)
    _ensure_authority(pki)
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
    names.append(f"kubernetes.default.svc.{CLUSTER_DOMAIN}")
    addresses = ["127.0.0.1", API_SERVICE_ADDRESS, plan.cluster_address]
    alternatives = ",".join([f"DNS:{name}" for name in names] + [f"IP:{address}" for address in addresses])
    _ensure_certificate(
        pki, "apiserver", "/CN=kube-apiserver", f"extendedKeyUsage=serverAuth\nsubjectAltName={alternatives}"
    )
    client = "/O=system:masters/CN=kube-apiserver-kubelet-client"
    _ensure_certificate(pki, "kubelet-client", client, "extendedKeyUsage=clientAuth")
    if not (pki / "sa.pub").exists():
        _new_key(pki / "sa.key")
        write_atomic(pki / "sa.pub", run(["openssl", "pkey", "-in", pki / "sa.key", "-pubout"]))
    tokens = _ensure_tokens(plan)
    for name, token in tokens.items():
        kubeconfig = kubeconfig_text(plan.name, plan.api_url, (pki / "ca.crt").read_bytes(), name, token)
        path = plan.kubeconfig if name == "admin" else plan.state / "kubeconfigs" / name
        if not path.exists() or path.read_text(encoding="utf-8") != kubeconfig:
            write_atomic(path, kubeconfig, 0o600)


def kubeconfig_text(cluster: str, server: str, authority: bytes, user: str, token: str) -> str:
    """A kubeconfig as JSON, which is YAML too."""
    name = f"trimtab-{cluster}"
    data = base64.b64encode(authority).decode()
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": data}}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
            "current-context": name,
        },
        indent=1,
    )


def _ensure_tokens(plan: Plan) -> dict[str, str]:
    """Tokens by name; the file the API server reads is rewritten only when a name is new."""
    store = plan.state / "pki" / "tokens.json"
    tokens: dict[str, str] = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    users = dict(STATIC_USERS)
    for index in range(1, MAX_REAL_NODES + 1):  # the API server reads the file once: later nodes need theirs now
        users[f"kubelet-{node_name(index)}"] = (f"system:node:{node_name(index)}", "system:nodes")
    for name in users:
        tokens.setdefault(name, secrets.token_hex(24))
    write_atomic(store, json.dumps(tokens), 0o600)
    rows = [f'{tokens[name]},{user},{user},"{groups}"' for name, (user, groups) in users.items()]
    write_atomic(plan.state / "pki" / "tokens.csv", "\n".join(rows) + "\n", 0o600)
    return {name: tokens[name] for name in users}


def _new_key(path: Path) -> None:
    """A P-256 key: made in milliseconds, and handshakes and token signatures cost a fraction of RSA's."""
    run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path])


def _ensure_authority(pki: Path) -> None:
    if (pki / "ca.crt").exists():
        return
    _new_key(pki / "ca.key")
    argv = [
        "openssl",
        "req",
        "-x509",
        "-new",
        "-key",
        pki / "ca.key",
        "-days",
        str(VALID_DAYS),
        "-subj",
        "/CN=trimtab-devcluster",
    ]
    write_atomic(pki / "ca.crt", run([*argv, "-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"]))


def _ensure_certificate(pki: Path, name: str, subject: str, extensions: str) -> None:
    """A certificate signed by the cluster's own authority; made anew when its extensions change."""
    config = pki / f"{name}.ext"
    wanted = f"basicConstraints=CA:FALSE\n{extensions}\n"
    if (pki / f"{name}.crt").exists() and config.exists() and config.read_text(encoding="utf-8") == wanted:
        return
    _new_key(pki / f"{name}.key")
    run(["openssl", "req", "-new", "-key", pki / f"{name}.key", "-subj", subject, "-out", pki / f"{name}.csr"])
    draft = pki / f".{name}.ext"
    draft.write_text(wanted, encoding="utf-8")
    argv = ["openssl", "x509", "-req", "-in", pki / f"{name}.csr", "-CA", pki / "ca.crt", "-CAkey", pki / "ca.key"]
    certificate = run([*argv, "-set_serial", str(secrets.randbits(63)), "-days", str(VALID_DAYS), "-extfile", draft])
    write_atomic(pki / f"{name}.crt", certificate)
    draft.replace(config)
