"""What each training process finds in its environment. Pure.

A name that the user has set is never overridden; the `GOODPUT_*` names are ours alone. Which
rank a process has is known only where we start the ranks ourselves, or where a pod holds just
one: torchrun reads `PET_*` for its own options (its default rendezvous is static: address,
port and node rank) and overwrites RANK and its like for the processes that it starts.
"""

import json
from dataclasses import dataclass
from typing import Dict, Mapping, Tuple

from goodput import protocol
from goodput.agent.settings import COMMAND
from goodput.protocol import World


@dataclass(frozen=True)
class Places:
    """Paths of the agent that a training process is told.

    Attributes:
        run_dir: the agent's writable directory.
        socket: the agent's datagram socket.
        sdk: what to append to PYTHONPATH so that `import goodput` works; empty for nothing.
    """

    run_dir: str
    socket: str
    sdk: str = ""


def error_file(run_dir: str, attempt: int, rank: int) -> str:
    """Return where torchelastic's `@record` leaves the exception of this process."""
    return "{}/error-{}-{}.json".format(run_dir, attempt, rank)


def environments(
    world: World, launcher: str, inherited: Mapping[str, str], places: Places
) -> Tuple[Dict[str, str], ...]:
    """Return the whole environment of each process to start, in the order of their ranks."""
    count = 1 if launcher == COMMAND else world.processes
    return tuple(_environment(world, launcher, local, inherited, places) for local in range(count))


def _environment(
    world: World, launcher: str, local_rank: int, inherited: Mapping[str, str], places: Places
) -> Dict[str, str]:
    rank = world.rank_offset + local_rank
    offered = _of_the_pod(world)
    if launcher == COMMAND:
        offered["JAX_NUM_PROCESSES"] = str(world.workers)
        offered["JAX_PROCESS_ID"] = str(world.worker_rank)
    else:
        offered["JAX_NUM_PROCESSES"] = str(world.world_size)
        offered["JAX_PROCESS_ID"] = str(rank)
    if launcher != COMMAND or world.processes == 1:
        offered.update(_of_the_rank(world, rank, local_rank))
    offered["TORCHELASTIC_ERROR_FILE"] = error_file(places.run_dir, world.attempt, rank)

    missing = {
        name: value for name, value in offered.items() if not _set_by_user(inherited.get(name))
    }
    result = {**inherited, **missing, **_of_ours(world, places)}
    if world.data_parallel_degree and (launcher != COMMAND or world.processes == 1):
        # As Megatron and torch's device meshes lay it out: pipeline stages are furthest apart.
        replica = rank // max(1, world.ranks_alike) % world.data_parallel_degree
        result[protocol.ENV_DATA_PARALLEL_RANK] = str(replica)
    if world.restore_step is None:
        result.pop(protocol.ENV_RESTORE_STEP, None)
    if places.sdk:
        before = inherited.get("PYTHONPATH", "")
        result["PYTHONPATH"] = before + ":" + places.sdk if before else places.sdk
    return result


def _set_by_user(value: object) -> bool:
    """Tell a user's value from that of a Service link.

    Kubernetes gives every pod `NAME_PORT=tcp://…` for each Service of the namespace, so a
    Service called "master" sets MASTER_PORT.
    """
    return isinstance(value, str) and not value.startswith(("tcp://", "udp://", "sctp://"))


def _of_the_pod(world: World) -> Dict[str, str]:
    address, port = world.master_address, str(world.master_port)
    host = "[{}]".format(address) if ":" in address else address
    return {
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
        "PET_NNODES": str(world.workers),
        "PET_NPROC_PER_NODE": str(world.processes),
        "PET_NODE_RANK": str(world.worker_rank),
        "PET_MASTER_ADDR": address,
        "PET_MASTER_PORT": port,
        "PET_RDZV_ID": world.run_id,
        "JAX_COORDINATOR_ADDRESS": "{}:{}".format(host, port),
        "SLURM_RESTART_COUNT": str(world.attempt - 1),
    }


def _of_the_rank(world: World, rank: int, local_rank: int) -> Dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(world.world_size),
        "LOCAL_WORLD_SIZE": str(world.processes),
        "GROUP_RANK": str(world.worker_rank),
        "GROUP_WORLD_SIZE": str(world.workers),
        "ROLE_RANK": str(rank),
        "ROLE_WORLD_SIZE": str(world.world_size),
        "ROLE_NAME": "default",
        "TORCHELASTIC_RUN_ID": world.run_id,
        "TORCHELASTIC_RESTART_COUNT": str(world.attempt - 1),
    }


def _of_ours(world: World, places: Places) -> Dict[str, str]:
    ours = {
        protocol.ENV_ATTEMPT: str(world.attempt),
        protocol.ENV_WORLD_SIZE: str(world.world_size),
        protocol.ENV_LINEAGE: json.dumps(
            [link.to_dict() for link in world.lineage], separators=(",", ":")
        ),
        protocol.ENV_AGENT: places.socket,
    }
    sizes = {
        protocol.ENV_RESTORE_STEP: world.restore_step,
        protocol.ENV_GLOBAL_BATCH_SIZE: world.global_batch_size,
        protocol.ENV_GRADIENT_ACCUMULATION_STEPS: world.accumulation_steps,
        protocol.ENV_DATA_PARALLEL_DEGREE: world.data_parallel_degree,
    }
    return {**ours, **{name: str(value) for name, value in sizes.items() if value is not None}}
