"""The launchers: what --dry-run prints, what is submitted, when a job is tried again."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "scripts" / "launch"
JOB = ["neural-operator", "--preset", "full", "--out", "/shared/first run"]
RUN = "-m jaxsci.cli run neural-operator --preset full --out '/shared/first run' --resume"
TPU = ["--name", "pod", "--zone", "us-central2-b"]
CLUSTER = ["--image", "example.org/jaxsci", "--claim", "runs"]


def call(name, *words, path="", **environment):
    return subprocess.run(
        [LAUNCH / name, *words],
        env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def tools(tmp_path):
    """Stand-ins for the clusters' tools: they note how they are called, and end as told."""

    def make(name, body):
        path = tmp_path / name
        path.write_text(
            f'#!/usr/bin/env bash\nprintf "%s\\n" "{name} $*" >> {tmp_path}/notes\n{body}'
        )
        path.chmod(0o755)

    make.folder = tmp_path
    make.notes = lambda: (tmp_path / "notes").read_text().splitlines()
    return make


def test_slurm_prints_what_it_submits(tools):
    words = ["--nodes", "2", "--gpus", "4", "--partition", "long", "--", *JOB]
    dry = call("slurm", "--dry-run", *words)
    command, script = dry.stdout.split("\n", 1)
    assert (dry.returncode, command) == (0, "sbatch")
    for line in ("nodes=2", "ntasks-per-node=1", "gpus-per-node=4", "partition=long", "requeue"):
        assert f"#SBATCH --{line}\n" in script
    assert f"srun --kill-on-bad-exit=1 .venv/bin/python {RUN} ||" in script
    tools("sbatch", f"cat > {tools.folder}/script")
    assert call("slurm", *words, path=tools.folder).returncode == 0
    assert (tools.folder / "script").read_text() == script


@pytest.mark.parametrize(
    ("status", "requeued"), [(0, False), (3, False), (130, False), (143, True)]
)
def test_the_slurm_job_goes_back_into_the_queue_unless_it_is_done(tools, status, requeued):
    script = call("slurm", "--dry-run", "--", *JOB).stdout.split("\n", 1)[1]
    tools("srun", f"exit {status}")
    tools("scontrol", "")
    done = subprocess.run(
        ["bash"],
        input=script,
        env={**os.environ, "PATH": f"{tools.folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"},
        text=True,
        check=False,
    )
    assert done.returncode == status
    assert ("scontrol requeue 7" in tools.notes()) == requeued


def test_tpu_prints_its_commands():
    done = call("tpu_vm", "--dry-run", *TPU, "--spot", "--", *JOB)
    assert done.returncode == 0
    create, install, run = [shlex.split(line) for line in done.stdout.splitlines()]
    assert create[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "create", "pod"]
    assert create[-1] == "--spot"
    for command in (install, run):
        assert command[4:9] == ["ssh", "pod", "--zone", "us-central2-b", "--worker"]
        assert command[9] == "all"
    assert run[-1] == f"python3 {RUN}"


def test_tpu_makes_the_slice_anew_and_resumes(tools):
    """The slice is not there, is made, is taken away during the run, and is made again."""
    tools(
        "gcloud",
        f"""
case $4 in
  describe) cat {tools.folder}/state 2>/dev/null ;;
  create) echo READY > {tools.folder}/state ;;
  delete) rm -f {tools.folder}/state ;;
  ssh)
    case "$*" in
      *jaxsci.cli*)
        if [ -f {tools.folder}/taken ]; then exit 0; fi
        touch {tools.folder}/taken
        rm {tools.folder}/state
        exit 255 ;;
    esac ;;
esac
""",
    )
    done = call("tpu_vm", *TPU, "--", *JOB, path=tools.folder, PAUSE="0")
    assert done.returncode == 0
    verbs = [line.split()[4] for line in tools.notes()]
    attempt = ["describe", "delete", "create", "ssh", "ssh"]
    assert verbs == attempt * 2
    assert "status 255; retry 1 of 100 in 0 s" in done.stderr


@pytest.mark.parametrize("status", [1, 2, 3, 130])
def test_a_final_status_is_not_tried_again(tools, status):
    tools(
        "gcloud",
        f'case "$*" in *describe*) echo READY ;; *jaxsci.cli*) exit {status} ;; esac',
    )
    assert call("tpu_vm", *TPU, "--", *JOB, path=tools.folder).returncode == status
    assert sum("jaxsci.cli" in line for line in tools.notes()) == 1


def test_it_gives_up_after_so_many_retries(tools):
    tools("gcloud", 'case "$*" in *describe*) echo READY ;; *jaxsci.cli*) exit 137 ;; esac')
    done = call("tpu_vm", *TPU, "--", *JOB, path=tools.folder, PAUSE="0", RETRIES="2")
    assert done.returncode == 137 and "gave up after 2 retries" in done.stderr
    assert sum("jaxsci.cli" in line for line in tools.notes()) == 3


def test_kubernetes_prints_what_it_submits(tools):
    words = [*CLUSTER, "--hosts", "2", "--gpus", "8", "--", *JOB]
    dry = call("kubernetes", "--dry-run", *words)
    command, manifest = dry.stdout.split("\n", 1)
    assert (dry.returncode, command) == (0, "kubectl apply -f -")
    jobset = yaml.safe_load(manifest)
    assert jobset["kind"] == "JobSet" and jobset["spec"]["failurePolicy"]["maxRestarts"] == 100
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 2 and job["backoffLimit"] == 0
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [1, 2, 3, 130]
    container = job["template"]["spec"]["containers"][0]
    assert container["command"] == shlex.split(f"python3 {RUN}")
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment["JAX_NUM_PROCESSES"] == "2"
    assert environment["JAX_COORDINATOR_ADDRESS"] == "jaxsci-host-0-0.jaxsci:8476"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    tools("kubectl", f"cat > {tools.folder}/manifest")
    assert call("kubernetes", *words, path=tools.folder).returncode == 0
    assert (tools.folder / "manifest").read_text() == manifest


def test_kubernetes_on_tpus():
    done = call("kubernetes", "--dry-run", *CLUSTER, "--tpu", "4x4", "--hosts", "4", "--", *JOB)
    jobset = yaml.safe_load(done.stdout.split("\n", 1)[1])
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["slurm"], "slurm: say what to run"),
        (["slurm", "--nodse", "2"], "slurm: no option --nodse"),
        (["slurm", "--nodes"], "slurm: --nodes needs a value"),
        (["tpu_vm", "--", "x"], "tpu_vm: --name and --zone are needed"),
        (["tpu_vm", *TPU], "tpu_vm: say what to run"),
        (["kubernetes", "--image", "i", "--", "x"], "kubernetes: --image and --claim are needed"),
    ],
)
def test_mistakes_are_one_line(words, said):
    done = call(*words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(said) and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["slurm", "tpu_vm", "kubernetes"])
def test_help(name):
    done = call(name, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: scripts/launch/{name}")
