"""What each training process finds: whole environments, compared as a whole."""

import pytest

from goodput.agent.environment import Places, environments
from goodput.agent.settings import COMMAND, PROCESSES
from goodput.protocol import Ancestor, World

PLACES = Places(run_dir="/goodput/run", socket="/goodput/run/agent.sock", sdk="/goodput/agent.pyz")
WORLD = World(
    attempt=3,
    run_id="uid-3",
    workers=2,
    worker_rank=1,
    processes=2,
    world_size=4,
    rank_offset=2,
    master_address="10.0.0.7",
    master_port=29512,
    restore_step=1200,
    lineage=(Ancestor(attempt=3, origin=2, step=1200),),
)
OF_THE_POD = {
    "MASTER_ADDR": "10.0.0.7",
    "MASTER_PORT": "29512",
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "2",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "10.0.0.7",
    "PET_MASTER_PORT": "29512",
    "PET_RDZV_ID": "uid-3",
    "JAX_COORDINATOR_ADDRESS": "10.0.0.7:29512",
    "SLURM_RESTART_COUNT": "2",
    "GOODPUT_ATTEMPT": "3",
    "GOODPUT_WORLD_SIZE": "4",
    "GOODPUT_RESTORE_STEP": "1200",
    "GOODPUT_LINEAGE": '[{"attempt":3,"origin":2,"step":1200}]',
    "GOODPUT_AGENT": "/goodput/run/agent.sock",
    "PYTHONPATH": "/goodput/agent.pyz",
}


def of_the_rank(rank: int, local_rank: int, world_size: int = 4, local: int = 2) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(local),
        "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "2",
        "ROLE_RANK": str(rank),
        "ROLE_WORLD_SIZE": str(world_size),
        "ROLE_NAME": "default",
        "TORCHELASTIC_RUN_ID": "uid-3",
        "TORCHELASTIC_RESTART_COUNT": "2",
    }


def with_changes(**changes: object) -> World:
    return World(**{**WORLD.__dict__, **changes})


def test_a_command_that_starts_the_ranks_itself_finds_the_world_of_its_pod() -> None:
    assert environments(WORLD, COMMAND, {"HOME": "/root"}, PLACES) == (
        {
            **OF_THE_POD,
            "HOME": "/root",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": "1",
            "TORCHELASTIC_ERROR_FILE": "/goodput/run/error-3-2.json",
        },
    )


def test_a_command_with_one_process_a_pod_also_finds_its_rank() -> None:
    world = with_changes(processes=1, world_size=2, rank_offset=1)
    assert environments(world, COMMAND, {}, PLACES) == (
        {
            **OF_THE_POD,
            **of_the_rank(1, 0, world_size=2, local=1),
            "PET_NPROC_PER_NODE": "1",
            "GOODPUT_WORLD_SIZE": "2",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": "1",
            "TORCHELASTIC_ERROR_FILE": "/goodput/run/error-3-1.json",
        },
    )


def test_processes_that_the_agent_starts_find_one_rank_each() -> None:
    assert environments(WORLD, PROCESSES, {}, PLACES) == tuple(
        {
            **OF_THE_POD,
            **of_the_rank(2 + local, local),
            "JAX_NUM_PROCESSES": "4",
            "JAX_PROCESS_ID": str(2 + local),
            "TORCHELASTIC_ERROR_FILE": f"/goodput/run/error-3-{2 + local}.json",
        }
        for local in (0, 1)
    )


@pytest.mark.parametrize(
    "name", ["MASTER_ADDR", "PET_NNODES", "RANK", "JAX_PROCESS_ID", "TORCHELASTIC_ERROR_FILE"]
)
def test_a_value_that_the_user_has_set_is_never_overridden(name: str) -> None:
    (first, _) = environments(WORLD, PROCESSES, {name: "mine"}, PLACES)
    assert first[name] == "mine"


def test_a_service_called_master_is_not_the_users_word() -> None:
    inherited = {"MASTER_PORT": "tcp://10.96.0.4:80"}
    (found,) = environments(WORLD, COMMAND, inherited, PLACES)
    assert found["MASTER_PORT"] == "29512"


def test_an_attempt_that_begins_from_nothing_has_no_restore_step() -> None:
    world = with_changes(restore_step=None, lineage=())
    (found,) = environments(world, COMMAND, {"GOODPUT_RESTORE_STEP": "7"}, PLACES)
    assert "GOODPUT_RESTORE_STEP" not in found
    assert found["GOODPUT_LINEAGE"] == "[]"


def test_a_start_at_step_zero_is_a_restore() -> None:
    (found,) = environments(with_changes(restore_step=0), COMMAND, {}, PLACES)
    assert found["GOODPUT_RESTORE_STEP"] == "0"


def test_the_users_python_path_comes_first() -> None:
    (found,) = environments(WORLD, COMMAND, {"PYTHONPATH": "/app"}, PLACES)
    assert found["PYTHONPATH"] == "/app:/goodput/agent.pyz"


def test_an_image_with_a_goodput_of_its_own_keeps_its_python_path() -> None:
    places = Places(run_dir="/goodput/run", socket="/goodput/run/agent.sock")
    (found,) = environments(WORLD, COMMAND, {}, places)
    assert "PYTHONPATH" not in found


def test_an_ipv6_master_stands_in_brackets_where_a_port_follows() -> None:
    (found,) = environments(with_changes(master_address="fd00::7"), COMMAND, {}, PLACES)
    assert found["MASTER_ADDR"] == "fd00::7"
    assert found["JAX_COORDINATOR_ADDRESS"] == "[fd00::7]:29512"


def test_what_is_inherited_is_passed_on() -> None:
    inherited = {"PATH": "/bin", "GOODPUT_JOB_UID": "u", "CUDA_VISIBLE_DEVICES": "0,1"}
    (found,) = environments(WORLD, COMMAND, inherited, PLACES)
    assert inherited.items() <= found.items()


@pytest.mark.parametrize(
    ("world_size", "degree", "alike", "replicas"),
    [
        pytest.param(4, 4, 1, ["2", "3"], id="each rank is a replica"),
        pytest.param(4, 2, 2, ["1", "1"], id="two ranks share a replica"),
        pytest.param(4, 2, 1, ["0", "1"], id="the second stage of a pipeline sees what the first"),
    ],
)
def test_each_rank_knows_its_replica_and_the_batch_at_this_size(
    world_size: int, degree: int, alike: int, replicas: list[str]
) -> None:
    world = with_changes(
        world_size=world_size,
        global_batch_size=512,
        accumulation_steps=32,
        data_parallel_degree=degree,
        ranks_alike=alike,
    )
    found = environments(world, PROCESSES, {}, PLACES)
    assert [one["GOODPUT_DATA_PARALLEL_RANK"] for one in found] == replicas
    for one in found:
        assert one["GOODPUT_DATA_PARALLEL_DEGREE"] == str(degree)
        assert one["GOODPUT_GLOBAL_BATCH_SIZE"] == "512"
        assert one["GOODPUT_GRADIENT_ACCUMULATION_STEPS"] == "32"


def test_a_command_that_starts_the_ranks_itself_knows_the_degree_but_no_rank() -> None:
    (found,) = environments(with_changes(data_parallel_degree=4), COMMAND, {}, PLACES)
    assert found["GOODPUT_DATA_PARALLEL_DEGREE"] == "4"
    assert "GOODPUT_DATA_PARALLEL_RANK" not in found
