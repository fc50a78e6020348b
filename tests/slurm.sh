#!/bin/sh
# Tries the workflow of the reference runs on this machine as a user of it and on a real Slurm of one node, with a table of two small
# runs: once locally, killed in the middle and started again, and once by Slurm, whose job is killed in the middle too. The results
# of both must agree bit for bit. Needs root, Debian's slurm-wlm and munge (apt install slurm-wlm munge), and `make setup datasets`.
#
#   tests/slurm.sh local | slurm | stop        stop ends the daemons that slurm started
set -eu
cd "$(dirname "$0")/.."
mkdir -p target/workflow-trial
trial=$PWD/target/workflow-trial
cat >"$trial/runs.csv" <<'END'
run;network;settings;seeds;keeps;hours
small;lenet;--images 3000 --test-images 500 --baseline-epochs 6 --epochs 12;0-1;weights;0.01
alone;lenet;--images 3000 --test-images 500 --baseline-epochs 6 --epochs 3 --frozen yes --matched no;0;summary;0.01
END
LD_LIBRARY_PATH=$(rustc --print target-libdir) && export LD_LIBRARY_PATH
program=$(ls target/kernel/target/*/debug/branchynet)
# Runs of its own, so that each try trains.
work() {
  mkdir -p "$trial/$1/datasets"
  ln -sf "$PWD"/datasets/*.safetensors "$trial/$1/datasets/"
  BRANCHYNET_DIR=$trial/$1 && export BRANCHYNET_DIR
  name=$1 && shift
  target/workflow/bin/snakemake --snakefile datasets/reference/Snakefile --directory "$trial/$name" --nolock --rerun-incomplete \
    --rerun-triggers mtime --cores all --quiet rules "$@" \
    --config program="$PWD/$program" jobs=2 runs="$trial/runs.csv" output="$trial/$name/results"
}
epochs() { cat target/reference/small-0.log 2>/dev/null | grep -c "epoch" || true; }
rm -f target/reference/small-*.log
case ${1:-} in
local)
  rm -rf "$trial/local" && mkdir -p "$trial/local"
  work local & workflow=$!
  while [ "$(epochs)" -lt 9 ]; do sleep 0.2; done
  pkill -KILL -f "$trial/local" || true
  wait $workflow || true
  echo "killed after $(epochs) epochs, results: $(ls "$trial/local/results" 2>/dev/null | wc -l)"
  work local
  grep "found" target/reference/small-0.log
  ;;
slurm)
  rm -rf "$trial/slurm" && mkdir -p "$trial/slurm/state" "$trial/slurm/spool" /run/munge
  chown munge: /run/munge
  pgrep -x munged >/dev/null || su -s /bin/sh munge -c munged
  # Jobs do not inherit SLURM_CONF from the executor, and their inner srun needs it: so the file lies where Slurm looks for it.
  [ ! -e /etc/slurm/slurm.conf ] || grep -q "branchynet trial" /etc/slurm/slurm.conf || { echo "/etc/slurm/slurm.conf is somebody else's" >&2; exit 1; }
  mkdir -p /etc/slurm
  cat >/etc/slurm/slurm.conf <<END
# branchynet trial
ClusterName=trial
SlurmctldHost=$(hostname)(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
MinJobAge=600
StateSaveLocation=$trial/slurm/state
SlurmdSpoolDir=$trial/slurm/spool
SlurmctldPidFile=$trial/slurm/slurmctld.pid
SlurmdPidFile=$trial/slurm/slurmd.pid
SlurmctldLogFile=$trial/slurm/slurmctld.log
SlurmdLogFile=$trial/slurm/slurmd.log
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
  pgrep -x slurmctld >/dev/null || slurmctld
  pgrep -x slurmd >/dev/null || slurmd
  until sinfo -h -o %t | grep -q idle; do sleep 1; done
  work slurm --profile datasets/reference/slurm --retries 1 & workflow=$!
  while [ "$(epochs)" -lt 9 ]; do sleep 0.2; done
  # The program of one job: Slurm reports the job as failed, and Snakemake submits it once more.
  pkill -KILL -f "^$PWD/$program train .*--seed 0 "
  echo "killed after $(epochs) epochs: $(squeue -h -o '%j %T' | tr '\n' ' ')"
  wait $workflow
  grep "found" target/reference/small-0.log
  sacct 2>/dev/null || squeue --states=all -o "%i %T %M"
  ;;
stop)
  pkill -x slurmd || true
  pkill -x slurmctld || true
  pkill -x munged || true
  exit
  ;;
*)
  sed -n '2,6s/^# \{0,1\}//p' "$0"
  exit 2
  ;;
esac
# What was trained at different times says so in its header; logits and weights are the content.
python3 - "$trial" <<'END'
import gzip, pathlib, sys
trial = pathlib.Path(sys.argv[1])
content = lambda data: data[8 + int.from_bytes(data[:8], "little"):]
results = {folder: {path.name: content((gzip.decompress if path.suffix == ".gz" else bytes)(path.read_bytes()))
                    for path in sorted((trial / folder / "results").rglob("*.safetensors*"))} for folder in ("local", "slurm")}
print({folder: sorted(files) for folder, files in results.items()})
if all(results.values()):
    print("local and Slurm agree bit for bit" if results["local"] == results["slurm"] else "local and Slurm DIFFER")
END
