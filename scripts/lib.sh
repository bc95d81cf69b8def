# What the scripts share: installing packages, a private Docker engine, a test image.
# Sourced, never run. Callers have `set -euo pipefail` and own the cleanup.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Where Debian keeps what administers a host, also for shells that do not look there.
PATH=$PATH:/usr/sbin:/sbin

# Whether a command exists; `module=NAME` is a module of Debian's Python, and a C compiler is
# there when it can link.
has() {
    case $1 in
        module=*) /usr/bin/python3 -c "import ${1#module=}" >/dev/null 2>&1 ;;
        cc) echo 'int main(void) { return 0; }' | cc -xc - -o /dev/null 2>/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

# Of packages as in `docker-cli|docker.io`, the first that this Debian has, or the last.
package() {
    local names name
    IFS='|' read -ra names <<<"$1"
    for name in "${names[@]}"; do
        [ -n "$(apt-cache show --no-all-versions "$name" 2>/dev/null)" ] && break
    done
    printf '%s\n' "$name"
}

# need COMMAND:PACKAGE[|PACKAGE...]...  makes sure each command exists; installs Debian packages
# when it may, and otherwise fails with the exact list.
need() {
    local missing=() pair
    for pair in "$@"; do
        has "${pair%%:*}" || missing+=("$pair")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "missing, and no apt-get here to install them: ${missing[*]%%:*}"
    packages() { for pair in "${missing[@]}"; do package "${pair#*:}"; done | sort -u | tr '\n' ' '; }
    local asroot=()
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null && asroot=(sudo -n) ||
            die "missing packages, and no right to install them: run  apt-get install $(packages)"
    fi
    local log wanted
    log=$("${asroot[@]}" apt-get update -qq 2>&1) || die "cannot ask for packages: $log"
    read -ra wanted <<<"$(packages)"
    say "installing ${wanted[*]}"
    log=$("${asroot[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 \
        install -y -qq --no-install-recommends "${wanted[@]}" 2>&1) || {
        tail -n 20 <<<"$log" >&2
        die "cannot install: ${wanted[*]}"
    }
    for pair in "${missing[@]}"; do
        has "${pair%%:*}" || die "no ${pair%%:*}, though these are installed: ${wanted[*]}"
    done
}

# A Rust toolchain is the one thing that is not installed for the user; under sudo the one of
# who called it will do.
need_rust() {
    local home=$HOME version
    if [ -n "${SUDO_USER:-}" ] && ! [ -x "$HOME/.cargo/bin/cargo" ]; then
        home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
        # Not its CARGO_HOME: what root leaves there its owner could not change.
        export RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
    fi
    if [ -x "$home/.cargo/bin/cargo" ]; then PATH=$home/.cargo/bin:$PATH; fi
    command -v cargo >/dev/null || die "no Rust toolchain: install one with rustup (stable, 1.89 or later)"
    version=$(cd "$root" && rustc --version | awk '{ print $2 }')
    printf '1.89\n%s\n' "$version" | sort --check=quiet --version-sort ||
        die "Rust $version is too old: 1.89 or later is needed (rustup update stable)"
    need cc:build-essential
}

# Fails where neither an engine answers nor one can be started.
may_start_docker() {
    docker info >/dev/null 2>&1 || [ "$(id -u)" = 0 ] ||
        die "no Docker engine answers, and only root can start one: run as root"
}

# start_docker DIR  leaves a usable engine: the one that runs, or a private one below DIR that
# stop_docker takes down. The private one touches no firewall rule and no other daemon.
start_docker() {
    docker_dir=$1 docker_pid=
    if docker info >/dev/null 2>&1; then
        return 0
    fi
    may_start_docker
    mkdir -p "$docker_dir"
    dockerd --data-root "$docker_dir/data" --exec-root "$docker_dir/exec" \
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
    rm -rf "$docker_dir" || true
}

# make_image ARCHIVE NAME SIZE...  writes a docker archive with one layer of random bytes for
# each size (as `head -c` takes it).
make_image() {
    local archive=$1 name=$2 work n=0 ids= layers= history= sum size
    shift 2
    work=$(mktemp -d "$archive.XXXXXX")
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

# wait_for URL SECONDS PID  until it answers; fails when it does not, or the process has ended.
wait_for() {
    local n
    for n in $(seq $(($2 * 10))); do
        curl -fsS -o /dev/null --max-time 2 "$1" 2>/dev/null && return 0
        kill -0 "$3" 2>/dev/null || return 1
        sleep 0.1
    done
    return 1
}
