"""The floor below which a podTemplate cannot go: the baseline Pod Security Standard, plus IPC_LOCK for RDMA.

Source: Kubernetes documentation, "Pod Security Standards" (baseline; volume types of restricted).
"""

from collections.abc import Mapping
from typing import Any

from controlplane.model.errors import Refused, TrimtabError

ALLOWED_CAPABILITIES = frozenset({"IPC_LOCK"})
ALLOWED_VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
_SELINUX_TYPES = ("container_t", "container_init_t", "container_kvm_t")
_WHY = "the operator creates this pod, so this would lend its rights to whoever may write the object"


# Older spellings of securityContext.appArmorProfile and seccompProfile; kubelets still read the first.
_APPARMOR_NOTE = "container.apparmor.security.beta.kubernetes.io/"
_SECCOMP_NOTES = ("seccomp.security.alpha.kubernetes.io/pod", "container.seccomp.security.alpha.kubernetes.io/")
_UNCONFINED = "unconfined"


def check_annotations(annotations: Mapping[str, Any], path: str) -> list[TrimtabError]:
    """AppArmor and seccomp profiles that a template's annotations switch off."""
    errors: list[TrimtabError] = []
    for key, value in annotations.items():
        if not key.startswith((_APPARMOR_NOTE, *_SECCOMP_NOTES)) or str(value).strip().lower() != _UNCONFINED:
            continue
        limit = "runtime/default, localhost/PROFILE"
        field = "appArmorProfile" if key.startswith(_APPARMOR_NOTE) else "seccompProfile"
        errors.append(
            Refused(
                f"{field} cannot be switched off by annotation",
                field=f"{path}.{key}",
                value=value,
                limit=limit,
                hint=f"use securityContext.{field}; {_WHY}",
            )
        )
    return errors


def check_security(spec: Mapping[str, Any], path: str) -> list[TrimtabError]:
    """What a template's pod spec asks for beyond the floor. Expects lists of objects (checked before)."""
    errors: list[TrimtabError] = []
    _check_context(spec.get("securityContext") or {}, f"{path}.securityContext", errors)
    for kind in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(kind) or []):
            where = f"{path}.{kind}[{index}]"
            _check_context(container.get("securityContext") or {}, f"{where}.securityContext", errors)
            ports = container.get("ports") or []
            for number, port in enumerate(ports if isinstance(ports, list) else [ports]):
                if isinstance(port, Mapping) and (port.get("hostPort") or port.get("hostIP")):
                    errors.append(
                        Refused(
                            "ports of the host are refused",
                            field=f"{where}.ports[{number}]",
                            value=port.get("hostPort"),
                            hint="use a Service",
                        )
                    )
    for index, volume in enumerate(spec.get("volumes") or []):
        for source in sorted(set(volume) - {"name"} - ALLOWED_VOLUMES):
            errors.append(
                Refused(
                    f"volumes of type {source} are refused",
                    field=f"{path}.volumes[{index}].{source}",
                    limit=", ".join(sorted(ALLOWED_VOLUMES)),
                    hint=_WHY if source == "hostPath" else "use a persistentVolumeClaim",
                )
            )
    return errors


def _check_context(context: Any, path: str, errors: list[TrimtabError]) -> None:
    if not isinstance(context, Mapping):
        errors.append(Refused("must be an object", field=path, value=context))
        return
    for key in ("privileged", "allowPrivilegeEscalation"):
        if context.get(key) not in (None, False):
            errors.append(
                Refused(
                    f"{key} is refused",
                    field=f"{path}.{key}",
                    value=context[key],
                    limit="false",
                    hint=f"{_WHY}; RDMA needs only capabilities.add: [IPC_LOCK] and the device plugin's resource",
                )
            )
    capabilities = context.get("capabilities") or {}
    added = capabilities.get("add") or [] if isinstance(capabilities, Mapping) else [capabilities]
    for name in added if isinstance(added, list) else [added]:
        if not isinstance(name, str) or name.removeprefix("CAP_") not in ALLOWED_CAPABILITIES:
            errors.append(
                Refused(
                    f"capability {name} is refused",
                    field=f"{path}.capabilities.add",
                    value=name,
                    limit=", ".join(sorted(ALLOWED_CAPABILITIES)),
                    hint=_WHY,
                )
            )
    for key in ("seccompProfile", "appArmorProfile"):
        profile = context.get(key)
        if isinstance(profile, Mapping) and profile.get("type") == "Unconfined":
            errors.append(
                Refused(f"{key} cannot be Unconfined", field=f"{path}.{key}.type", limit="RuntimeDefault, Localhost")
            )
    selinux = context.get("seLinuxOptions")
    if isinstance(selinux, Mapping) and (
        selinux.get("user") or selinux.get("role") or selinux.get("type") not in (None, "", *_SELINUX_TYPES)
    ):
        errors.append(
            Refused(
                "this SELinux context is refused",
                field=f"{path}.seLinuxOptions",
                value=dict(selinux),
                limit=f"type {', '.join(_SELINUX_TYPES)}; no user, no role",
                hint=_WHY,
            )
        )
    for key, safe in (("procMount", "Default"), ("sysctls", None), ("windowsOptions", None)):
        if context.get(key) not in (None, safe, []):
            errors.append(Refused(f"{key} is refused", field=f"{path}.{key}", value=context[key], hint=_WHY))
