# Sourced by the Makefile and the scripts: picks the Rust toolchain.
#
# rust-toolchain.toml pins one. Where rustup does not have it and cannot fetch it, the `stable` that is there is used,
# and said so. Without rustup, the system's cargo is used as it is.

pinned_toolchain=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' rust-toolchain.toml)

if [[ -z ${RUSTUP_TOOLCHAIN:-} ]] && command -v rustup >/dev/null; then
    if ! rustup toolchain list | grep -q "^${pinned_toolchain}-"; then
        echo "toolchain: Rust ${pinned_toolchain} is pinned and not installed; asking rustup for it" >&2
        if ! RUST_BACKTRACE=0 timeout 180 rustup toolchain install "$pinned_toolchain" --profile minimal \
            --component clippy --component rustfmt >&2; then
            if rustup toolchain list | grep -q '^stable-'; then
                export RUSTUP_TOOLCHAIN=stable
                echo "toolchain: cannot fetch it; using $(rustc --version) (RUSTUP_TOOLCHAIN=stable) instead" >&2
            else
                echo "toolchain: cannot fetch it, and there is no stable toolchain: install Rust ${pinned_toolchain}" >&2
            fi
        fi
    fi
fi

# Frame pointers, by which profiles find who called whom; benchmarks and instruction counts do without. No spaces: it is
# used unquoted.
RELEASE_CONFIG='--config=build.rustflags=["-Cforce-frame-pointers=yes"]'
