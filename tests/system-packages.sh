#!/usr/bin/env bash
# Installs the Debian packages that tests need and that are not there yet; says so where it may not.
set -euo pipefail

# A program, and the package that has it.
needed=(git:git curl:curl openssl:openssl g++:g++ mpicxx:libopenmpi-dev mpirun:openmpi-bin node:nodejs npm:npm
    podman:podman buildah:buildah runc:runc catatonit:catatonit bwrap:bubblewrap
    sbatch:slurm-client slurmctld:slurmctld slurmd:slurmd munged:munge ip:iproute2
    ssh:openssh-client sshd:openssh-server faketime:faketime fusermount3:fuse3)
missing=()
for pair in "${needed[@]}"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "The tests need: ${missing[*]}. Install them and try again." >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null
apt-get install -q -y --no-install-recommends "${missing[@]}" >/dev/null
