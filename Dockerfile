# Quorate in a container: one binary on a base without a shell. Builds with BuildKit and with the classic builder:
#
#   docker build -t quorate .
#   docker run --rm -p 2379:2379 -v quorate:/data quorate
#
# Both bases can be replaced: BUILD_IMAGE has cargo and a C compiler, RUNTIME_IMAGE glibc and libgcc_s, not older than the
# build's glibc. An offline build image carries the crates itself and sets CARGO_NET_OFFLINE.
ARG BUILD_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# The dependencies are a layer of their own: it is made anew only when a manifest or the wire contract changes. A cache
# mount would do as much with BuildKit, and nothing without.
COPY Cargo.toml Cargo.lock ./
COPY proto proto
RUN mkdir src && echo 'fn main() {}' >src/main.rs && touch src/lib.rs \
    && cargo build --locked --release --bin quorate
COPY src src
# Cargo compares times, and copied files are older than what was just built from the placeholders.
RUN touch src/main.rs src/lib.rs && cargo build --locked --release --bin quorate \
    && mkdir -p /rootfs/data /rootfs/usr/local/bin && chmod 0700 /rootfs/data \
    && strip --strip-debug -o /rootfs/usr/local/bin/quorate target/release/quorate

FROM ${RUNTIME_IMAGE}
COPY --from=build /rootfs/usr/local/bin/quorate /usr/local/bin/quorate
# A named volume takes over the owner of the directory that it is mounted on.
COPY --from=build --chown=65532:65532 /rootfs/data /data
USER 65532:65532
# `localhost` in a container is the container, and clients come from outside. etcd's names, because these are defaults: a
# QUORATE_ variable and a flag win over them, and `docker run -e ETCD_...` replaces them.
ENV ETCD_DATA_DIR=/data \
    ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379 \
    ETCD_ADVERTISE_CLIENT_URLS=http://127.0.0.1:2379
VOLUME /data
EXPOSE 2379 2380
# The process is PID 1 and no shell stands between: the signal reaches it. It hands leadership over, finishes calls, syncs.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["/usr/local/bin/quorate", "healthcheck", "--ready"]
ENTRYPOINT ["/usr/local/bin/quorate"]
CMD ["serve"]
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="quorate" \
    org.opencontainers.image.description="A Raft-replicated, linearizable key-value store that speaks etcd's v3 API" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
