import json
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certifi
import pytest
from kubernetes.aio.config import incluster_config

from controlplane.kube import PODS, ClusterAccess, ConfigError, KubeClient, Unauthorized, config, load_access
from controlplane.testing import FakeApiServer


def kubeconfig(tmp_path: Path, server: str, user: dict[str, object], **cluster: object) -> Path:
    path = tmp_path / "kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "team"}}],
    }
    path.write_text(json.dumps(document))
    return path


def plugin(tmp_path: Path, lifetime: timedelta | None) -> tuple[dict[str, object], Path]:
    """An exec plug-in that gives token-1, token-2, ... and counts its runs in a file."""
    counter = tmp_path / "runs"
    counter.write_text("0")
    expiry = f", 'expirationTimestamp': '{(datetime.now(UTC) + lifetime).isoformat()}'" if lifetime else ""
    script = tmp_path / "plugin"
    script.write_text(
        f"#!{sys.executable}\nimport json, pathlib\np = pathlib.Path({str(counter)!r})\n"
        "n = int(p.read_text()) + 1\np.write_text(str(n))\n"
        "print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential',"
        f" 'status': {{'token': f'token-{{n}}'{expiry}}}}}))\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script), "args": []}}, counter


def a_ca() -> bytes:
    return Path(certifi.where()).read_bytes()


async def test_a_kubeconfig_gives_address_namespace_and_token(tmp_path):
    access = await load_access(kubeconfig(tmp_path, "http://127.0.0.1:8001/prefix/", {"token": "secret"}))
    assert (access.host, access.port, access.base_path) == ("127.0.0.1", 8001, "/prefix")
    assert access.namespace == "team"
    assert await access.authorization() == "Bearer secret"


async def test_the_environment_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, "http://127.0.0.1:1", {"token": "t"})))
    assert (await load_access()).port == 1


@pytest.mark.parametrize(
    ("user", "cluster", "message"),
    [
        ({"token": "t"}, {"proxy-url": "http://proxy:3128"}, "proxy-url"),
        ({"token": "t"}, {"server": "ftp://x"}, "no http"),
        ({"exec": {"apiVersion": "v1", "command": "/does/not/exist"}}, {}, "/does/not/exist"),
    ],
)
async def test_what_cannot_be_used_is_named(tmp_path, user, cluster, message):
    path = kubeconfig(tmp_path, user=user, **({"server": "http://127.0.0.1:1"} | cluster))
    with pytest.raises(ConfigError, match=message):
        await load_access(path)


async def test_a_missing_and_a_broken_file_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="no kubeconfig at"):
        await load_access(tmp_path / "nothing")
    broken = tmp_path / "broken"
    for half_written in ("clusters: 7\n", "clusters: [\n"):
        broken.write_text(half_written)
        with pytest.raises(ConfigError, match="broken"):
            await load_access(broken)


async def test_a_bad_certificate_file_is_named(tmp_path):
    path = kubeconfig(
        tmp_path, "https://127.0.0.1:1", {"token": "t"}, **{"certificate-authority": str(tmp_path / "no-ca")}
    )
    with pytest.raises(ConfigError, match="no-ca"):
        await load_access(path)


async def test_a_token_file_is_read_again(tmp_path, monkeypatch):
    token = tmp_path / "token"
    token.write_text("old")
    access = await load_access(kubeconfig(tmp_path, "http://127.0.0.1:1", {"tokenFile": str(token)}))
    token.write_text("new\n")
    assert await access.authorization() == "Bearer old"
    now = config.time.monotonic()
    monkeypatch.setattr(config.time, "monotonic", lambda: now + config.TOKEN_REREAD_S + 1)
    assert await access.authorization() == "Bearer new"


async def test_in_cluster_files_are_read_and_followed(tmp_path, monkeypatch):
    token, ca = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("one")
    ca.write_bytes(a_ca())
    (tmp_path / "namespace").write_text("trimtab-system\n")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(ca))
    monkeypatch.setattr(config, "_IN_CLUSTER_NAMESPACE", tmp_path / "namespace")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    access = await load_access()
    assert (access.server, access.namespace) == ("https://10.96.0.1:443", "trimtab-system")
    assert access.tls is not None
    token.write_text("two")
    now = config.time.monotonic()
    monkeypatch.setattr(config.time, "monotonic", lambda: now + config.TOKEN_REREAD_S + 1)
    assert await access.authorization() == "Bearer two"
    token.unlink()  # while kubelet swaps it
    monkeypatch.setattr(config.time, "monotonic", lambda: now + 3 * config.TOKEN_REREAD_S)
    assert await access.authorization() == "Bearer two"


async def test_an_exec_plugin_runs_again_before_its_token_expires(tmp_path, monkeypatch):
    user, counter = plugin(tmp_path, timedelta(minutes=10))
    access = await load_access(kubeconfig(tmp_path, "http://127.0.0.1:1", user))
    assert await access.authorization() == "Bearer token-1"
    assert counter.read_text() == "1"
    now = config.time.monotonic()
    monkeypatch.setattr(config.time, "monotonic", lambda: now + 580.0)
    assert await access.authorization() == "Bearer token-2"


async def test_a_401_asks_the_plugin_at_once_and_the_request_goes_again(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "_MIN_FORCED_REFRESH_S", 0.0)
    user, counter = plugin(tmp_path, None)
    async with FakeApiServer() as server:
        server.accepted_tokens = {"token-2"}
        async with KubeClient(await load_access(kubeconfig(tmp_path, server.url, user))) as client:
            await client.list_page(PODS)
            assert counter.read_text() == "2"
            server.accepted_tokens = set()
            with pytest.raises(Unauthorized):
                await client.list_page(PODS)
            assert counter.read_text() == "3"  # once per request, not in a loop


async def test_static_credentials_are_not_asked_again():
    access = ClusterAccess("http://127.0.0.1:1", token="t")
    assert await access.rejected() is False


def test_tls_and_address_must_agree():
    with pytest.raises(ConfigError, match="does not go with http"):
        ClusterAccess("http://x", tls=config.ssl.create_default_context())
    assert ClusterAccess("https://[::1]:6443").host_header == "[::1]:6443"
