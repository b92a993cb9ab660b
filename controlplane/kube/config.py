"""Where the API server is and how to prove who we are, read by `kubernetes.aio` (kubeconfig or in-cluster).

`kubernetes.aio` knows the formats: merged kubeconfigs, exec plug-ins, OIDC, service-account files. This module asks
it again when a credential may have changed: projected service-account tokens rotate about hourly, exec plug-ins say
when their token expires, and a 401 asks at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from controlplane.kube.errors import ConfigError

if TYPE_CHECKING:
    from kubernetes.aio.client import Configuration

log = logging.getLogger(__name__)

# Service-account tokens are replaced well before they expire; kubelet syncs the file about once a minute.
TOKEN_REREAD_S = 60.0
# An exec plug-in's token is renewed this long before the expiry it announced.
_EXPIRY_MARGIN_S = 30.0
# A server that answers 401 to everything must not make us run an exec plug-in in a tight loop.
_MIN_FORCED_REFRESH_S = 5.0
_IN_CLUSTER_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class ClusterAccess:
    """Address, TLS context and a current Authorization header.

    `authorization()` is called for every request and costs a comparison unless a re-read is due.
    """

    def __init__(
        self,
        server: str,
        *,
        tls: ssl.SSLContext | None = None,
        tls_server_name: str | None = None,
        token: str | None = None,
        namespace: str | None = None,
    ) -> None:
        split = urlsplit(server)
        if split.scheme not in ("http", "https") or not split.hostname:
            raise ConfigError(f"server {server!r} is no http(s) URL")
        if split.scheme == "http" and tls is not None:
            raise ConfigError(f"server {server!r}: a TLS context does not go with http")
        self.server = server
        self.host: str = split.hostname
        self.port: int = split.port or (443 if split.scheme == "https" else 80)
        self.base_path = split.path.rstrip("/")
        self.tls = (tls or ssl.create_default_context()) if split.scheme == "https" else None
        self.tls_server_name = tls_server_name
        self.namespace = namespace
        # A client certificate outranks any bearer token: whoever forwards tokens must not connect with one.
        self.has_client_certificate = False
        self._header: str | None = f"Bearer {token}" if token else None
        self._reload: Callable[[], Awaitable[ClusterAccess]] | None = None
        self._due_s = float("inf")
        self._last_reload_s = 0.0

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    async def authorization(self) -> str | None:
        """The value of the Authorization header, or None (client certificate, or no authentication)."""
        if time.monotonic() >= self._due_s:
            await self._refresh()
        return self._header

    async def rejected(self) -> bool:
        """The server answered 401: read the credentials anew. True when a new attempt is worthwhile."""
        if self._reload is None or time.monotonic() - self._last_reload_s < _MIN_FORCED_REFRESH_S:
            return False
        before = (self._header, self.tls)
        await self._refresh()
        return (self._header, self.tls) != before

    async def _refresh(self) -> None:
        assert self._reload is not None
        # Set first: concurrent requests go on with the old header instead of queueing behind an exec plug-in.
        self._last_reload_s = time.monotonic()
        self._due_s = self._last_reload_s + TOKEN_REREAD_S
        try:
            fresh: ClusterAccess = await self._reload()
        except ConfigError as error:
            # The credentials we hold may still be good; if not, the server's 401 says so and asks here again.
            log.warning("credentials cannot be read anew: %s", error)
            return
        self._header = fresh._header
        self._due_s = fresh._due_s
        if fresh.tls is not None:
            self.tls = fresh.tls


async def load_access(kubeconfig: str | Path | None = None, context: str | None = None) -> ClusterAccess:
    """Find the cluster as kubectl does: the given file, `$KUBECONFIG`, in-cluster files, `~/.kube/config`.

    Raises ConfigError with the file and the reason when none of them can be used.
    """
    explicit = str(kubeconfig) if kubeconfig is not None else os.environ.get("KUBECONFIG")
    if not explicit and os.environ.get("KUBERNETES_SERVICE_HOST"):
        access = await _load_in_cluster()
        access._reload = _load_in_cluster
        return access
    path = explicit or "~/.kube/config"
    if not _any_file(path):
        raise ConfigError(f"no kubeconfig at {path!r} and not inside a cluster; set KUBECONFIG or pass --kubeconfig")

    async def reload() -> ClusterAccess:
        return await _load_kubeconfig(path, context)

    access = await reload()
    access._reload = reload
    return access


def _any_file(paths: str) -> bool:
    return any(Path(part).expanduser().is_file() for part in paths.split(os.pathsep) if part)


def _in_cluster_namespace() -> str | None:
    with contextlib.suppress(OSError):
        return _IN_CLUSTER_NAMESPACE.read_text().strip() or None
    return None


async def _load_in_cluster() -> ClusterAccess:
    # Imported late: the client models behind it cost 40 MB and 0.4 s, and embedded runs never need them.
    from kubernetes.aio.client import Configuration  # noqa: PLC0415
    from kubernetes.aio.config import ConfigException, load_incluster_config  # noqa: PLC0415

    configuration = Configuration()
    load: Any = load_incluster_config
    try:
        load(configuration, try_refresh_token=False)
    except (ConfigException, OSError) as error:
        raise ConfigError(f"in-cluster configuration: {error}") from error
    access = _from_configuration(configuration, _in_cluster_namespace())
    access._due_s = time.monotonic() + TOKEN_REREAD_S
    return access


async def _load_kubeconfig(path: str, context: str | None) -> ClusterAccess:
    from kubernetes.aio.client import Configuration  # noqa: PLC0415
    from kubernetes.aio.config import ConfigException, load_kube_config  # noqa: PLC0415
    from yaml import YAMLError  # noqa: PLC0415

    configuration = Configuration()
    load: Any = load_kube_config
    try:
        loader: Any = await load(
            config_file=path, context=context, client_configuration=configuration, persist_config=False
        )
    except (ConfigException, YAMLError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"kubeconfig {path!r}: {error}") from error
    user = dict(loader._user.value) if loader._user is not None else {}
    if "exec" in user and not configuration.api_key.get("BearerToken") and not configuration.cert_file:
        command = user["exec"].get("command", "?")
        raise ConfigError(f"kubeconfig {path!r}: the credential plug-in {command!r} gave no token; see the log")
    current = loader.current_context.get("context", {})
    access = _from_configuration(configuration, current.get("namespace"))
    if "exec" in user:
        expiry = getattr(loader, "exec_plugin_expiry", None)
        if isinstance(expiry, datetime):
            left_s = (expiry.astimezone(UTC) - datetime.now(UTC)).total_seconds()
            access._due_s = time.monotonic() + max(_MIN_FORCED_REFRESH_S, left_s - _EXPIRY_MARGIN_S)
    elif "tokenFile" in user or "auth-provider" in user:
        access._due_s = time.monotonic() + TOKEN_REREAD_S
    return access


def _from_configuration(configuration: Configuration, namespace: str | None) -> ClusterAccess:
    proxy = getattr(configuration, "proxy", None)
    if proxy:
        raise ConfigError(f"proxy-url {proxy!r} is not supported; reach the API server directly or by a tunnel")
    tls: ssl.SSLContext | None = None
    if configuration.host.startswith("https"):
        try:
            tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert or None)
            if configuration.cert_file:
                tls.load_cert_chain(configuration.cert_file, configuration.key_file or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"TLS files (CA {configuration.ssl_ca_cert!r}, certificate {configuration.cert_file!r}): {error}"
            ) from error
        if not configuration.verify_ssl:
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
    access = ClusterAccess(
        configuration.host,
        tls=tls,
        tls_server_name=getattr(configuration, "tls_server_name", None),
        namespace=namespace,
    )
    access.has_client_certificate = bool(configuration.cert_file)
    header = (configuration.api_key or {}).get("BearerToken")
    if header:
        scheme, _, credential = str(header).strip().partition(" ")
        access._header = f"{'Bearer' if scheme.lower() == 'bearer' else scheme} {credential.strip()}"
    return access
