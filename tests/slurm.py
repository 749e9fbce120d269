"""A SLURM of one node on this machine, for tests: Debian's `slurm-wlm` and `munge`, started by hand, by root.

Jobs that take more memory than they asked for are killed, jobs that are cancelled or out of time get SIGTERM and, after
`KillWait` seconds, SIGKILL. There is no accounting, as on many small clusters, and no control group is used.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
CORES = 4
"""Cores that the node claims to have, whatever the machine has."""

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={node}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=2000
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SchedulerParameters=sched_interval=1,batch_sched_delay=0
PreemptMode=REQUEUE
PreemptType=preempt/partition_prio
JobRequeue=1
SlurmdParameters=config_overrides
KillWait=10
OverTimeLimit=0
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=work Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=2
"""


def missing() -> str | None:
    """Why there cannot be one here; None if there can."""
    absent = [name for name in NEEDED if shutil.which(name, path=PATH) is None]
    if absent:
        return f"SLURM is not installed: there is no {', '.join(absent)} (Debian: slurm-wlm, munge)"
    return "SLURM's daemons are started by root" if os.geteuid() else None


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Runs one while the block does. Gives the environment variables with which `sbatch` and others find it."""
    host = socket.gethostname().partition(".")[0]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20 - 100
    for name in ("state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    config = folder / "slurm.conf"
    ports = dict(zip(("controller", "node"), free_ports(2), strict=True))
    config.write_text(CONFIG.format(folder=folder, host=host, cores=CORES, memory=memory, **ports))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    environment = {"SLURM_CONF": str(config), "PATH": PATH}
    names = ("key-file", "socket", "log-file", "pid-file", "seed-file")
    files = [f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in names]
    with contextlib.ExitStack() as stack:
        for command in (
            ["munged", "--foreground", "--force", *files],
            ["slurmctld", "-D", "-i"],
            ["slurmd", "-D", "-N", host],
        ):
            stack.enter_context(daemon(command, folder, environment))
            time.sleep(1)
        while "idle" not in said("sinfo", "--noheader", "--format=%t", **environment):
            time.sleep(0.5)
        yield environment
        said("scancel", "--user=root", **environment)


@contextlib.contextmanager
def daemon(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Runs a daemon in the foreground while the block does."""
    with (folder / f"{command[0]}.out").open("w") as file:
        output = {"stdout": file, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, env={**os.environ, **environment}, **output, start_new_session=True)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens to."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


def said(*command: str, **environment: str) -> str:
    """What a command prints."""
    variables = {**os.environ, **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False).stdout
