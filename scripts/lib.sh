# What the scripts share: installing packages, a private Docker engine, a test image.
# Sourced, never run. Callers have `set -euo pipefail` and own the cleanup.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Whether a command exists; `module=NAME` is a module of Debian's Python.
has() {
    case $1 in
        module=*) /usr/bin/python3 -c "import ${1#module=}" >/dev/null 2>&1 ;;
        *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
    esac
}

# need COMMAND:PACKAGE...  makes sure each command exists; installs Debian packages when it
# may, and otherwise fails with the exact list.
need() {
    local missing=() pair command
    for pair in "$@"; do
        command=${pair%%:*}
        has "$command" || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
    local asroot=()
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null && asroot=(sudo -n) ||
            die "missing packages, and no right to install them: run  apt-get install ${missing[*]}"
    fi
    command -v apt-get >/dev/null || die "missing packages, and no apt-get here: ${missing[*]}"
    say "installing ${missing[*]}"
    local log
    log=$(mktemp)
    if ! { "${asroot[@]}" apt-get update -qq &&
        "${asroot[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "cannot install: ${missing[*]}"
    fi
    rm -f "$log"
}

# A Rust toolchain is the one thing that is not installed for the user.
need_rust() {
    [ -x "$HOME/.cargo/bin/cargo" ] && PATH=$HOME/.cargo/bin:$PATH
    command -v cargo >/dev/null || die "no Rust toolchain: install one with rustup (stable, 1.89 or later)"
    need cc:gcc
}

# start_docker DIR  leaves a usable engine: the one that runs, or a private one below DIR that
# stop_docker takes down. The private one touches no firewall rule and no other daemon.
start_docker() {
    docker_dir=$1 docker_pid=
    if docker info >/dev/null 2>&1; then
        return 0
    fi
    [ "$(id -u)" = 0 ] || die "no Docker engine answers, and only root can start one"
    mkdir -p "$docker_dir"
    PATH=$PATH:/usr/sbin:/sbin dockerd --data-root "$docker_dir/data" --exec-root "$docker_dir/exec" \
        --pidfile "$docker_dir/pid" --host "unix://$docker_dir/sock" \
        --bridge none --iptables=false --ip6tables=false >"$docker_dir/log" 2>&1 &
    docker_pid=$!
    export DOCKER_HOST=unix://$docker_dir/sock
    local n
    for n in $(seq 120); do
        docker info >/dev/null 2>&1 && return 0
        kill -0 "$docker_pid" 2>/dev/null || break
        sleep 0.5
    done
    tail -n 20 "$docker_dir/log" >&2
    die "the private Docker engine does not start"
}

stop_docker() {
    [ -n "${docker_pid:-}" ] || return 0
    kill "$docker_pid" 2>/dev/null || true
    wait "$docker_pid" 2>/dev/null || true
    docker_pid=
    rm -rf "$docker_dir"
}

# make_image ARCHIVE NAME SIZE...  writes a docker archive with one layer of random bytes for
# each size (as `head -c` takes it).
make_image() {
    local archive=$1 name=$2 work n=0 ids= layers= history= sum size
    shift 2
    work=$(mktemp -d)
    for size in "$@"; do
        n=$((n + 1))
        mkdir -p "$work/in$n/layer"
        head -c "$size" /dev/urandom >"$work/in$n/layer/$n.bin"
        tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 \
            -C "$work/in$n" -cf "$work/$n.tar" layer
        rm -r "$work/in$n"
        sum=$(sha256sum "$work/$n.tar")
        ids+="${ids:+,}\"sha256:${sum%% *}\"" layers+="${layers:+,}\"$n.tar\""
        history+="${history:+,}{\"created\":\"1970-01-01T00:00:00Z\",\"created_by\":\"layer $n\"}"
    done
    printf '{"architecture":"amd64","os":"linux","config":{"Cmd":["/none"]},"rootfs":{"type":"layers","diff_ids":[%s]},"history":[%s]}' \
        "$ids" "$history" >"$work/config.json"
    printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":[%s]}]' "$name" "$layers" \
        >"$work/manifest.json"
    tar -C "$work" -cf "$archive" .
    rm -r "$work"
}

# wait_for URL SECONDS WHAT
wait_for() {
    local n
    for n in $(seq $(($2 * 10))); do
        curl -fsS -o /dev/null --max-time 2 "$1" 2>/dev/null && return 0
        sleep 0.1
    done
    die "$3 does not answer at $1"
}
