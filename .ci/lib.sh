# shellcheck shell=sh
# Shared by the scripts beside it: messages on stderr (stdout belongs to results), and installing a
# system package where that needs no question asked.

say() { printf 'benben: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# apt_install PACKAGE... : returns 1, having said the exact command, where it may not install.
# A fresh container has no package lists, hence the second try after an update.
apt_install() {
    root=
    if [ "$(id -u)" -ne 0 ]; then
        if ! have sudo; then
            say "needs root; run: apt-get install $*"
            return 1
        fi
        root=sudo
    fi
    say "installing $*"
    apt_get="$root env DEBIAN_FRONTEND=noninteractive apt-get -qq"
    # shellcheck disable=SC2086  # a command of several words
    $apt_get install -y "$@" >&2 || { $apt_get update >&2 && $apt_get install -y "$@" >&2; } || {
        say "that failed; run: ${root:+$root }apt-get update && ${root:+$root }apt-get install $*"
        return 1
    }
}
