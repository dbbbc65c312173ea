# DynaRust in a container: one node per container, its data on the volume /data.
#
#   docker build -t dynarust:latest .
#   docker run -p 6660:6660 -v dynarust-data:/data dynarust:latest
#
# Needs nothing of BuildKit: the classic builder makes the same image. No step runs in the runtime stage, so its base may
# be one without a shell. It must bring glibc (at least the build image's) and libgcc_s: keep the two on one Debian release.
ARG BUILD_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /build

# The dependencies first, from the manifest and the lock file alone, so that a change of the sources does not compile them
# again. Tests and benches are not copied, so their targets leave the manifest here. `cargo clean` takes the stub's
# results away: copied sources may be older than those, and cargo, going by file times, would call the stub up to date.
COPY Cargo.toml Cargo.lock ./
RUN awk '/^\[/ { skip = /^\[\[(bench|example|test)\]\]/ } !skip' Cargo.toml > Cargo.toml.kept \
 && mv Cargo.toml.kept Cargo.toml \
 && mkdir src && touch src/lib.rs && echo 'fn main() {}' > src/main.rs \
 && cargo build --release --locked \
 && cargo clean --release --locked --package dynarust \
 && rm -r src

COPY migrations migrations
COPY src src
RUN cargo build --release --locked \
 && mkdir -p /image/data \
 && mv target/release/DynaRust /image/DynaRust

FROM ${RUNTIME_IMAGE}
LABEL org.opencontainers.image.title="DynaRust" \
      org.opencontainers.image.description="A key-value store that starts with one command" \
      org.opencontainers.image.licenses="MIT"

COPY --from=build /image/DynaRust /usr/local/bin/DynaRust
# A named volume takes over this directory's owner when it is first mounted.
COPY --from=build --chown=10001:10001 /image/data /data
# A number, so that an orchestrator can tell that it is not root; no passwd entry is needed.
USER 10001:10001
ENV DYNARUST_DATA_DIR=/data
VOLUME /data
EXPOSE 6660
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 CMD ["DynaRust", "healthcheck"]
ENTRYPOINT ["DynaRust"]
CMD ["0.0.0.0:6660"]
