"""Starting the ranks of several pods with MPI: workers wait for the leader's connection, the leader runs `mpirun`.

The form is that of the MPI Operator (kubeflow/mpi-operator, "Running without root") and of TensorRT-LLM's multi-node
guide: sshd without privileges on a high port. One key pair, from a Secret of type kubernetes.io/ssh-auth, serves as
user key and host key, so that both ends are checked. The image must contain sshd and a user with the pod's uid.
"""

from collections.abc import Sequence

SSH_PORT = 2222
KEY_FOLDER = "/etc/trimtab/mpi-ssh"
KEY_FILE = "ssh-privatekey"  # as Secrets of type kubernetes.io/ssh-auth spell it

_PREPARE = f"""\
set -euo pipefail
umask 077
mkdir -p "$HOME/.ssh"
cp {KEY_FOLDER}/{KEY_FILE} "$HOME/.ssh/gang"
ssh-keygen -y -f "$HOME/.ssh/gang" > "$HOME/.ssh/gang.pub"
"""

_WORKER = (
    _PREPARE
    + f"""\
cat > "$HOME/.ssh/sshd_config" <<CONFIG
Port {SSH_PORT}
HostKey $HOME/.ssh/gang
AuthorizedKeysFile $HOME/.ssh/gang.pub
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
SetEnv PATH=$PATH LD_LIBRARY_PATH=${{LD_LIBRARY_PATH:-}}
CONFIG
exec /usr/sbin/sshd -D -e -f "$HOME/.ssh/sshd_config"
"""
)

# The workers' sshd may start later than the leader, and mpirun gives up at the first refused connection.
_LEADER = (
    _PREPARE
    + f"""\
{{ printf 'gang '; cat "$HOME/.ssh/gang.pub"; }} > "$HOME/.ssh/known_gang"
cat > "$HOME/.ssh/ssh_config" <<CONFIG
Host *
  Port {SSH_PORT}
  IdentityFile $HOME/.ssh/gang
  UserKnownHostsFile $HOME/.ssh/known_gang
  HostKeyAlias gang
  StrictHostKeyChecking yes
  BatchMode yes
  ConnectTimeout 5
CONFIG
for host in $GANG_WORKERS; do
  until ssh -F "$HOME/.ssh/ssh_config" "$host" true; do sleep 2; done
done
exec mpirun --mca plm_rsh_args "-F $HOME/.ssh/ssh_config" "$@"
"""
)


def worker() -> tuple[list[str], list[str]]:
    """`command` and `args` of a pod that waits for the leader to start its ranks."""
    return ["bash", "-c", _WORKER], []


def leader(
    serve: Sequence[str], *, ranks: int, hosts: Sequence[str], slots: int, exported_env: Sequence[str]
) -> tuple[list[str], list[str]]:
    """`command` and `args` of the pod that starts `ranks` processes, `slots` on each of `hosts` (itself first)."""
    script = _LEADER.replace("$GANG_WORKERS", " ".join(hosts[1:]))
    args = ["-np", str(ranks), "-H", ",".join(f"{host}:{slots}" for host in hosts)]
    for name in exported_env:
        args += ["-x", name]
    return ["bash", "-c", script, "leader"], [*args, *serve]
